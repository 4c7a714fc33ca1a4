"""What published implementations compute, and what ours must: logits, terms of the loss, gradients (tests/golden)."""

import json

import pytest
import torch

from prompting import teacher
from prompting.checkpoint import learned_state
from prompting.clip import word_vectors
from prompting.heads import cosine_logits
from prompting.methods import coprompt, prograd, promptsrc
from tests.golden import recipe
from tests.trainers.conftest import read_golden
from trainers import METHODS

TRAINERS = {trainer.__name__: trainer for trainer in METHODS}
GOLDENS = {
    "align": "MMP", "align-init": "MMP", "align-flat": "MMP", "coop": "CoOp", "cocoop": "CoCoOp", "plot": "PLOT",
    "vpt": "VPT", "ivlp": "IVLP", "maple": "MaPLe", "promptsrc": "PromptSRC", "kgcoop": "KgCoOp", "prograd": "ProGrad",
    "coprompt": "CoPrompt", "tcp": "TCP", "mma": "MultiModalAdapter", "mmrl": "MMRL", "cliplora": "CLIP_LoRA",
    "upt-released": "Unified",
}  # fmt: skip
# Terms that a golden file holds without their weights in the sum.
WEIGHTS = {
    "kgcoop": {"knowledge": 8.0}, "coprompt": {"text": 2.0, "image": 2.0}, "tcp": {"knowledge": 8.0},
    "mmrl": {"ce_class": 0.7, "ce_rep": 0.3},
}  # fmt: skip
CONSTANTS = {"logit_scale"}  # keys of golden configs that are none of the method


def set_config(cfg, trainer, config):
    """Set a golden file's config, whose keys come without the method's node."""
    for key, value in config.items():
        if isinstance(value, dict):  # a node, such as LOSS
            set_config(cfg, trainer, value)
        elif key not in CONSTANTS:
            assert key.upper() in trainer.defaults()
            cfg.merge_from_list([trainer.full_key(key.upper()), value])


def build(golden, trainer, clip_model, make_cfg):
    """Build the golden run's model: every tensor in `drawn` from the recipe, of the others only what has no words."""
    cfg = make_cfg("DATASET.NAME", golden.get("dataset", ""), "DATASET.SUBSAMPLE_CLASSES", "base")
    layer = {"LAYER": golden["layer"]} if "layer" in golden else {}
    set_config(cfg, trainer, {**golden["config"], **layer})
    model = trainer.build_clip(cfg, golden["classnames"], clip_model)
    learned = learned_state(model, model.released_names)
    assert {name: list(tensor.shape) for name, tensor in learned.items()} == golden["shapes"]
    with torch.no_grad():
        for name, tensor in learned.items():
            drawn = torch.from_numpy(recipe.learned(golden["seed"], name, tuple(tensor.shape)))
            if name in golden["drawn"]:
                factors = [factor for part, factor in golden.get("factor", {}).items() if part in name]
                tensor.copy_(drawn * (factors[0] if factors else 1))
            elif trainer.node == "MMP":  # the words of CTX_INIT hold for the first text prompt only
                tensor[1:].copy_(drawn[1:])
            elif "init_words" in golden:
                zeros = golden.get("zero_rows", 0)
                words = word_vectors(clip_model, golden["init_words"], len(tensor) - zeros)
                assert torch.equal(tensor, torch.cat([torch.zeros_like(tensor[:zeros]), words]))
    return model, learned


@pytest.fixture
def sentences(tmp_path, monkeypatch):
    """Return a function that gives the methods a golden file's sentences in place of the published ones."""

    def give(name, golden):
        if name == "promptsrc":
            monkeypatch.setattr(promptsrc, "TEMPLATES", golden["templates"])
        if name == "coprompt":
            (tmp_path / "gpt_file").mkdir()
            (tmp_path / "gpt_file" / "oxford_pets_prompt.json").write_text(json.dumps(golden["sentences"]))
            monkeypatch.chdir(tmp_path)
            picks = iter(golden["picks"])
            monkeypatch.setattr(coprompt.random, "randrange", lambda number: next(picks))

    return give


def backward(name, golden, terms, learned):
    """Compute the gradients of a step from the terms of the loss, and return the loss that the golden file lists."""
    if name == "prograd":
        (ctx,) = learned.values()
        special, general = (torch.autograd.grad(terms[term], ctx, retain_graph=True)[0] for term in ("xe", "kl"))
        ctx.grad = prograd.project(special, general, golden["config"]["LOSS"]["LAMBDA"])
        norms = {"grad_norm_xe": special.norm(), "grad_norm_kl": general.norm()}
        terms |= {**norms, "cosine": (special * general).sum() / special.norm() / general.norm()}
        return terms["xe"]
    loss = sum(terms.values())
    loss.backward()
    return loss


def no_dropout(model):
    """Set every dropout probability to 0, as in the golden runs."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0


FAST = ("align", "coop", "maple")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in GOLDENS]
)
def test_golden(name, request, make_cfg, sentences):
    golden = read_golden(name)
    clip_model = request.getfixturevalue("golden_resnet" if name == "plot" else "golden_clip")
    sentences(name, golden)
    model, learned = build(golden, TRAINERS[GOLDENS[name]], clip_model, make_cfg)
    no_dropout(model)
    size = model.shape.image_size[0]
    images, labels = recipe.batch(golden["seed"], len(golden["labels"]), len(golden["classnames"]), size)
    batch = [torch.from_numpy(images), torch.from_numpy(labels)]
    assert labels.tolist() == golden["labels"]
    if name == "coprompt":
        batch.append(torch.from_numpy(recipe.draw(golden["seed"], "images2", images.shape)))

    def check_logits(key):
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(batch[0]), torch.tensor(golden[key]), atol=2e-3, rtol=0)
        model.train()

    check_logits("logits")
    if "teacher_logits" in golden:
        frozen = teacher.image_features(model.image_encoder, batch[0])
        logits = cosine_logits(frozen, model.get_buffer("teacher_text"), model.logit_scale)
        torch.testing.assert_close(logits.detach(), torch.tensor(golden["teacher_logits"]), atol=2e-3, rtol=0)
    if name == "mmrl":
        with torch.no_grad():
            parts = model.all_logits(*model.all_features(batch[0]))
        for part, key in zip(parts, ("logits_class", "logits_rep", "logits")):
            torch.testing.assert_close(part, torch.tensor(golden[key]), atol=2e-3, rtol=0)
    optimizer = torch.optim.SGD(learned.values(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    if name == "plot":
        # The golden run had the whole model in training mode, so that its ResNet used the statistics of the batch. A
        # training run of the plugin does not (only its prompt learner is in training mode), and neither does ours.
        model.clip.visual.train()
    if name == "promptsrc":
        config = golden["config"]
        mean = promptsrc.GaussianMean(config["GPA_MEAN"], config["GPA_STD"])
    for step, expected in enumerate(golden["losses"]):
        if name == "promptsrc" and step == len(golden["losses"]) - 1:
            check_logits("logits_before_last_step")
        terms, _ = model.loss_terms(*batch)
        optimizer.zero_grad()
        loss = backward(name, golden, terms, learned)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        if step == 0:
            for term, value in terms.items():
                weight = WEIGHTS.get(name, {}).get(term, 1.0)
                known = weight * golden.get("terms", {term: expected})[term]
                assert value.item() == pytest.approx(known, abs=1e-3, rel=0.01 if "norm" in term else 0), term
            for tensor, norm in golden["grad_norms"].items():
                assert learned[tensor].grad.norm().item() == pytest.approx(norm, rel=0.01), tensor
        if name == "prograd":
            assert terms["kl"].item() == pytest.approx(golden["kl_losses"][step], abs=1e-3)
        optimizer.step()
        if name == "promptsrc":
            mean.update(step + 1, learned)
    if "logits_after" in golden:
        check_logits("logits_after")
    if name == "promptsrc":
        for tensor, norm in golden["gpa"]["norms"].items():
            assert mean.tensors[tensor].norm().item() == pytest.approx(norm, rel=1e-4), tensor
        with torch.no_grad():
            for tensor, value in learned.items():
                value.copy_(mean.tensors[tensor])
        golden["after_mean"] = golden["gpa"]["logits"]
        check_logits("after_mean")

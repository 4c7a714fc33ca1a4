"""Every method on small ViTs and ResNets: a step, refused settings, cached class features, a run."""

import math
from functools import partial

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.clip import TextEncoder, VisionEncoder
from prompting.learners import ClassContexts, TextPrompts
from prompting.methods import cocoop
from prompting.precision import Precision
from tests.reference.methods import (
    METHODS,
    NAMES,
    PROPORTIONS,
    build,
    draw_images,
    other_resnet,
    proportioned_vit,
    relearn,
    tiny_resnet,
    tiny_vit,
    train_on_four,
)


def check_step(model, clip):
    """Logits (B, K) in float32; a step of SGD changes every learned tensor and nothing of the frozen CLIP."""
    images, frozen = draw_images(clip), {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    with torch.no_grad():
        logits = model.eval()(images)
    assert logits.shape == (2, 3) and logits.dtype == torch.float32 and logits.isfinite().all()
    learned = learned_state(relearn(model).train())
    assert not any(module.training for module in model.clip.modules())
    if learned:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        loss, seen = model.training_loss(images, torch.tensor([0, 2]))
        assert loss.dim() == 0 and seen.shape == (2, 3)
        loss.backward()
        assert all(tensor.grad is None for tensor in model.clip.parameters())
        assert not [name for name, tensor in learned.items() if tensor.grad is None or not tensor.grad.abs().max() > 0]
        optimizer.step()
    assert not [name for name, tensor in clip.state_dict().items() if not torch.equal(tensor, frozen[name])]


@pytest.mark.parametrize("clip_of", [tiny_vit, *(partial(proportioned_vit, name) for name in PROPORTIONS)])
@pytest.mark.parametrize("method", list(METHODS))
def test_vit(method, clip_of):
    check_step(build(method, clip=clip_of()), clip_of())


NO_VISUAL_PROMPTS = {
    "ALIGN": (
        *("COUPLING", "independent", "VISION_PROMPT_DEPTH", 0, "VISION_PROMPT_NUMBER", 1),
        *("BETA", 0.0, "IMAGE_SET", "patches", "READING", "released", "TEXT_PROMPT_DEPTH", 2),
    ),
    "IVLP": ("PROMPT_DEPTH_VISION", 0, "PROMPT_DEPTH_TEXT", 2),
    "CLIP_LoRA": ("ENCODER", "text"),
}


ONLY_TEXT_PROMPTS = (
    "ZeroshotCLIP", "CoOp", "CoCoOp", "ProDA", "PLOT", "KgCoOp", "ProGrad", "TCP", "TipAdapterF",
    *NO_VISUAL_PROMPTS,
)  # fmt: skip


@pytest.mark.parametrize("clip_of", [tiny_resnet, other_resnet])
@pytest.mark.parametrize("method", list(METHODS))
def test_resnet(method, clip_of):
    """A method learns on a ResNet, or one line says that its visual prompts need a ViT."""
    clip, words = clip_of(), NO_VISUAL_PROMPTS.get(method, ())
    try:
        model = build(method, *words, clip=clip)
    except ValueError as error:
        assert "visual prompts need a ViT backbone; this one is a ResNet" in str(error) and "\n" not in str(error)
        assert method not in ONLY_TEXT_PROMPTS
        return
    check_step(model, clip)


ZERO = r"(depth|length|number) of \w+ prompts is 0; allowed: 1 or more$"
COVARIANCE = "PROMPT_BATCH is .* a covariance needs 2 to N prompts"
REFUSED = [
    ("CoOp", ("N_CTX", 0, "CTX_INIT", ""), ZERO),
    ("CoCoOp", ("N_CTX", 0, "CTX_INIT", ""), ZERO),
    ("ProDA", ("N_CTX", 0), ZERO),
    *(("ProDA", ("N", n, "PROMPT_BATCH", batch), COVARIANCE) for n, batch in ((4, 1), (4, 5), (1, 1))),
    ("PLOT", ("N", 0), ZERO),
    ("PLOTPP", ("M", 0), ZERO),
    ("PLOTPP", ("N", 0), ZERO),
    ("PLOTPP", ("N", 5), "N is 5; CTX_INIT True has words"),
    ("PLOTPP", ("N_CTX_V", 0), ZERO),
    ("PLOTPP", ("MODEL_UPD", "visual"), "TRAINER.PLOTPP.MODEL_UPD is 'visual'; allowed"),
    ("VPT", ("N_CTX_VISION", 0), ZERO),
    ("VPT", ("PROMPT_DEPTH_VISION", 4), "vision prompt depth is 4; the vision tower has 3 blocks: 0 to 3"),
    ("IVLP", ("N_CTX_TEXT", 0), ZERO),
    ("MaPLe", ("N_CTX", 0), ZERO),
    ("MaPLe", ("PROMPT_DEPTH", 0), ZERO),
    ("KgCoOp", ("N_CTX", 0, "CTX_INIT", False), ZERO),
    ("KgCoOp", ("CLASS_TOKEN_POSITION", "front"), "TRAINER.COOP.CLASS_TOKEN_POSITION .*front"),
    ("ProGrad", ("N_CTX", 0, "CTX_INIT", False), ZERO),
    ("ProGrad", ("CLASS_TOKEN_POSITION", "middle"), "TRAINER.COOP.CLASS_TOKEN_POSITION"),
    ("ProGrad", ("NAME", "other"), "LOSS.NAME"),
    ("ProGrad", ("T", 0.0), "LOSS.T is 0.0; allowed: a finite number > 0"),
    ("PromptSRC", ("N_CTX_TEXT", 0), ZERO),
    ("PromptSRC", ("GPA_STD", 0), "TRAINER.PROMPTSRC.GPA_STD is 0; allowed: an integer >= 1"),
    ("PromptSRC", ("PROMPT_DEPTH_TEXT", 0), "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT is 0; allowed: an integer >= 1"),
    ("CoPrompt", ("PROMPT_DEPTH", 0), ZERO),
    ("CoPrompt", ("DISTILL", "cosin"), "DISTILL is "),
    ("UPT", ("N_CTX_VISION", 0), ZERO),
    ("UPT", ("PROMPT_DEPTH", 0), ZERO),
    ("UPT", ("READING", "code"), "TRAINER.UPT.READING is 'code'"),
    ("TCP", ("N_CTX", 16), "TRAINER.COOP.N_CTX is 16; allowed: 4"),
    ("TCP", ("LAYER", 3), "TRAINER.COOP.LAYER is 3; the text tower's blocks are 0 to 2"),
    ("TCP", ("CLASS_TOKEN_POSITION", "front"), "front"),
    ("MultiModalAdapter", ("ADAPTER_END", 4), "ADAPTER_END is 4; both towers have blocks for 0 to 3"),
    ("MultiModalAdapter", ("ADAPTER_START", 3, "ADAPTER_END", 2), "ADAPTER_START is 3; allowed: 0 to ADAPTER_END"),
    ("MultiModalAdapter", ("ADAPTER_SCALE", 0.0), "ADAPTER_SCALE is 0.0"),
    ("MultiModalAdapter", ("READING", "paper"), "paper"),
    *(("MMRL", ("REP_LAYERS", n), "TRAINER.MMRL.REP_LAYERS is ") for n in ([], [1, 2], [3, 2], [2, 2], ["a"], [2.0])),
    ("MMRL", ("REP_LAYERS", [2, 4]), "both towers have blocks 1 to 3"),
    *(("TipAdapterF", ("SEARCH_SCALE", v), "SEARCH_SCALE is ") for v in (("a", 1), (7,), (7, float("nan")))),
    ("TipAdapterF", ("SEARCH_STEP", (2.5, 3)), "SEARCH_STEP is .* two whole numbers above 0"),
    ("TipAdapterF", ("AUGMENT_EPOCH", 0), "TRAINER.TIPADAPTERF.AUGMENT_EPOCH is 0; allowed: an integer >= 1"),
    ("CLIP_LoRA", ("PARAMS", ()), "TRAINER.CLIP_LORA.PARAMS is ..; allowed: one or more of 'q', 'k', 'v', 'o'"),
    ("ZeroshotCLIP", ("TEMPLATES", "ensembel"), "did you mean 'ensemble'"),
    ("MMP", ("USECT", True), "USECT"),
    ("ALIGN", ("N_CTX", 0), ZERO),
    ("ALIGN", ("TEXT_PROMPT_NUMBER", 0, "VISION_PROMPT_NUMBER", 0), ZERO),
    ("ALIGN", ("TEXT_PROMPT_NUMBER", 2, "VISION_PROMPT_NUMBER", 3), "N_PROMPT_NUMBER is 3 and TEXT_PROMPT_NUMBER 2"),
    ("ALIGN", ("TEXT_PROMPT_DEPTH", 2, "VISION_PROMPT_DEPTH", 1), "VISION_PROMPT_DEPTH is 1 and TEXT_PROMPT_DEPTH 2"),
    ("ALIGN", ("TEXT_PROMPT_DEPTH", 4, "VISION_PROMPT_DEPTH", 4), "depth is 4; the text tower has 3 blocks"),
    ("ALIGN", ("TEXT_PROMPT_DEPTH", 0), "TEXT_PROMPT_DEPTH is 0 under coupling projected"),
    ("ALIGN", ("COUPLING", "project"), "did you mean 'projected'"),
    ("ALIGN", ("READING", "release"), "did you mean 'released'"),
    ("ALIGN", ("LAMBDA_TOKEN", 0.0), "LAMBDA_TOKEN is 0.0"),
    ("ALIGN", ("N_CTX", 6), "fewer than"),
    ("ALIGN", ("CTX_INIT", "word " * 80), "prompt of 'golden retriever' has"),
    ("ALIGN", ("ENGINE", "triton"), "TRAINER.ALIGN.ENGINE is 'triton'.*allowed: 'torch', 'auto'$"),
    ("ALIGN", ("IMAGE_SET", "patches"), "BETA is 1.0 with IMAGE_SET patches.*set BETA to 0"),
    ("ALIGN", ("IMAGE_SET", "patch"), "IMAGE_SET.*'patch'.*patches"),
]


@pytest.mark.parametrize("method, words, message", REFUSED)
def test_settings_are_refused_in_one_line(method, words, message):
    with pytest.raises(ValueError, match=message) as error:
        build(method, *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("position", ["front", "middle", "end"])
@pytest.mark.parametrize("method", ["CoOp", "PLOT", "PLOTPP"])
def test_positions_and_class_specific_contexts(method, position):
    words = ("CLASS_TOKEN_POSITION", position, "CSC", True, "CTX_INIT", False if method == "PLOTPP" else "")
    model = build(method, *words)
    learner = model.prompt_learner.text if method == "PLOTPP" else model.prompt_learner
    assert isinstance(learner, ClassContexts) and len(NAMES) in learner.ctx.shape
    check_step(model, tiny_vit())
    by_position = {build(method, "CLASS_TOKEN_POSITION", p).tokens.context[0, 1].tolist()[0] for p in ("front", "end")}
    assert len(by_position) == 2


WORDS = {"CoOp": "a photo of a", "PLOT": "a photo of a", "PLOTPP": True}


@pytest.mark.parametrize("method", list(WORDS))
def test_class_specific_contexts_that_start_from_words_are_warned_of(method, caplog):
    """One context for all classes is learned, as in the published code; a method's defaults say nothing."""
    build(method)
    build(method, "CTX_INIT", WORDS[method])
    build(method, "CSC", True, "CTX_INIT", "" if method != "PLOTPP" else False)
    assert caplog.messages == []
    model = build(method, "CSC", True, "CTX_INIT", WORDS[method])
    assert [message.split(":")[0] for message in caplog.messages] == ["CSC is not used"]
    learner = model.prompt_learner.text if method == "PLOTPP" else model.prompt_learner
    assert isinstance(learner, TextPrompts)


@pytest.mark.parametrize(
    "method, words, parts",
    [(name, (), 1) for name in METHODS if name not in ("CoCoOp", "ProDA")]
    + [("ProDA", ("N", 7, "PROMPT_BATCH", 3), 3)],
)
def test_class_features_are_kept_in_evaluation_until_a_learned_tensor_changes(method, words, parts, monkeypatch):
    """They take one call of the text tower, or (ProDA) one per batch of prompts."""
    model, calls, images = build(method, *words), [], draw_images(tiny_vit())
    forward = model.text_encoder.forward
    monkeypatch.setattr(model.text_encoder, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    with torch.no_grad():
        first = model.eval()(images)
        assert torch.equal(model(images), first) and len(calls) == parts
        for tensor in learned_state(model).values():
            tensor.add_(torch.randn_like(tensor))
        second = model(images)
        assert torch.equal(second, first) == (method == "ZeroshotCLIP")
    model.train().training_loss(images, torch.tensor([0, 1]))
    with torch.no_grad():
        for tensor in learned_state(model).values():
            tensor.data.copy_(torch.randn_like(tensor))  # not seen by autograd, as the step of some optimizers
        assert torch.equal(model.eval()(images), second) == (method == "ZeroshotCLIP")


@pytest.mark.parametrize("most, parts", [(1, 15), (4, 5), (15, 1)])
def test_cocoop_in_chunks_is_cocoop(most, parts, monkeypatch):
    """Images x classes in pieces of any size: the same logits and the same gradients, never more prompts at once."""
    images, labels = draw_images(tiny_vit(), 5), torch.tensor([0, 1, 2, 0, 1])
    sizes = []

    def run():
        model = relearn(build("CoCoOp")).train()
        forward = model.text_encoder.forward

        def counted(tokens, contexts):
            sizes.append(tokens.ids.shape[1] * len(contexts))
            return forward(tokens, contexts)

        model.text_encoder.forward = counted
        loss, logits = model.training_loss(images, labels)
        loss.backward()
        with torch.no_grad():
            evaluated = model.eval()(images)
        return logits, evaluated, {name: tensor.grad for name, tensor in learned_state(model).items()}

    whole = run()
    assert sizes == [15, 15]  # in training, in evaluation
    sizes.clear()
    monkeypatch.setattr(cocoop, "MAX_PROMPTS", most)
    torch.testing.assert_close(run(), whole, atol=1e-5, rtol=1e-4)
    assert max(sizes) <= most
    runs = 2 if parts == 1 else 3  # several parts run in training, again in the backward pass, and in evaluation
    assert len(sizes) == runs * parts and sum(sizes) == runs * 15


@pytest.mark.parametrize("method", list(METHODS))
def test_the_towers_run_under_the_autocast_of_the_caller(method, monkeypatch):
    """Half-precision weights of a GPU need it."""
    seen = []
    for tower in (VisionEncoder, TextEncoder):
        forward = tower.forward
        watched = lambda *a, run=forward, **k: seen.append(torch.is_autocast_enabled("cpu")) or run(*a, **k)  # noqa: E731
        monkeypatch.setattr(tower, "forward", watched)
    model, images = build(method), draw_images(tiny_vit())
    seen.clear()  # what the model computed once, in float32, when it was built
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train()
        if learned_state(model):
            model.training_loss(images, torch.tensor([0, 2]))
        model.eval()(images)
    assert seen and all(seen)


def test_a_run_whose_last_step_the_loss_scaler_skips(tmp_path):
    """It ends as any other, and keeps what it had learned."""
    trainer = train_on_four("CoOp", tmp_path)
    trainer.precision = Precision("fp16", torch.device("cpu"), torch.amp.GradScaler("cpu", init_scale=2.0**127))
    start = trainer.model.prompt_learner.ctx.clone()
    trainer.train()
    assert trainer.precision.skipped.total == 1 and torch.equal(trainer.model.prompt_learner.ctx, start)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_a_run(method, tmp_path):
    """Train, save, load into another trainer: every learned tensor has moved, is saved, and gives the same logits."""
    trainer = train_on_four(method, tmp_path)
    start = {name: tensor.clone() for name, tensor in learned_state(trainer.model).items()}
    trainer.train()
    assert not [name for name, tensor in learned_state(trainer.model).items() if torch.equal(tensor, start[name])]
    assert set(trainer.test_results) == {"test"}
    files = list((tmp_path / "out").glob("*/model.pth.tar-1"))
    saved = [set(torch.load(file, weights_only=True)["state_dict"]) for file in files]
    learned = set(trainer.model.get_submodule(trainer.saved_part).state_dict())
    assert saved == ([learned] if start else []) and len(learned - {"_extra_state"}) == len(start)
    images = draw_images(tiny_vit())
    with torch.no_grad():
        expected = trainer.model.eval()(images)
        other = train_on_four(method, tmp_path)
        other.load_model(str(tmp_path / "out"))
        torch.testing.assert_close(other.model.eval()(images), expected)


@pytest.mark.parametrize("method, last", [("CLIP_LoRA", 1e-6), ("TipAdapterF", 0.0)])
def test_a_longer_training_has_the_rates_of_its_own_length(method, last, tmp_path):
    """Of a schedule over steps: 2 epochs of 2 steps, continued to 4 epochs."""
    words = ("DATALOADER.TRAIN_X.BATCH_SIZE", 1, "OPTIM.MAX_EPOCH")
    train_on_four(method, tmp_path, *words, 2).train()
    places = ("RESUME", str(tmp_path / "out"), "OUTPUT_DIR", str(tmp_path / "longer"))
    trainer, rates = train_on_four(method, tmp_path, *words, 4, *places), []
    step = trainer.forward_backward
    trainer.forward_backward = lambda batch: rates.append(trainer.get_current_lr()) or step(batch)
    trainer.train()
    assert rates == pytest.approx(
        [last + (0.05 - last) * (1 + math.cos(math.pi * done / 8)) / 2 for done in (4, 5, 6, 7)]
    )


RESUMED = {
    "CLIP_LoRA": ("N_ITERS", 4, "DATASET.NUM_SHOTS", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 1),
    "PromptSRC": ("OPTIM.MAX_EPOCH", 4, "GPA_MEAN", 3),
    "TipAdapterF": ("OPTIM.MAX_EPOCH", 4, "OPTIM.NAME", "adamw", "AUGMENT_EPOCH", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", RESUMED)
def test_a_resumed_run_is_the_whole_run(method, tmp_path, monkeypatch):
    """Of 4 epochs, where more than the tensors goes on: rates of steps and dropout, a mean over epochs, a cache."""

    def trainer_in(folder):
        torch.manual_seed(0)
        places = ("TRAIN.CHECKPOINT_FREQ", 1, "OUTPUT_DIR", str(tmp_path / folder))
        return train_on_four(method, tmp_path, *RESUMED[method], *places)

    whole = trainer_in("whole")
    whole.train()
    stopped = trainer_in("resumed")
    monkeypatch.setattr(stopped, "before_epoch", lambda: 1 / (2 - stopped.epoch))  # an error in the third epoch
    with pytest.raises(ZeroDivisionError):
        stopped.train()
    resumed = trainer_in("resumed")
    resumed.train()
    assert resumed.start_epoch == 2 and resumed.get_current_lr() == whole.get_current_lr()
    for name, tensor in learned_state(whole.model).items():
        assert torch.equal(tensor, learned_state(resumed.model)[name]), name

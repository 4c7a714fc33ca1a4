"""Checkpoints as CoOp, CoCoOp, PLOT, PLOT++, MaPLe, VPT, IVLP and ALIGN publish them, made here, evaluate as theirs do.

Such a file holds the whole model or the prompt learner in float16, embeddings of the class names of its own training
run, and a pickled scheduler that holds a pickled optimizer.
"""

import pytest
import torch

from prompting.checkpoint import learned_state
from tests.reference.methods import NAMES, build, draw_images, relearn, tiny_vit, train_on_four

EPOCHS = {
    "CoOp": 50, "CoCoOp": 10, "PLOT": 50, "PLOTPP": 50, "MaPLe": 5, "IVLP": 5, "VPT": 5, "MMP": 20, "ALIGN": 20,
    "PromptSRC": 20, "KgCoOp": 100, "ProGrad": 100, "CoPrompt": 8, "TCP": 50, "MultiModalAdapter": 5, "MMRL": 10,
}  # fmt: skip
FOLDER = {
    **dict.fromkeys(("MaPLe", "MMP", "ALIGN", "CoPrompt"), "MultiModalPromptLearner"),
    **dict.fromkeys(("IVLP", "PromptSRC"), "VLPromptLearner"),
    "MultiModalAdapter": "adapter_learner",
    "MMRL": "MultiModalRepresentationLearner",
}  # the others: prompt_learner
LEARNER_ONLY = ("CoOp", "CoCoOp", "PLOT", "KgCoOp", "ProGrad", "TCP", "MultiModalAdapter")
OTHER_CLASSES, LENGTH, WIDTH = 7, 20, 64  # the checkpoint's run had other classes than ours


def token_buffers(prompts):
    """Embeddings of SOS and of what follows the context, for ``prompts`` rows of other class names."""
    return {"token_prefix": torch.randn(prompts, 1, WIDTH), "token_suffix": torch.randn(prompts, LENGTH - 5, WIDTH)}


def published_state(method, model):
    """The state dict of a published file that holds the learned tensors of ``model``."""
    learned = {name: tensor.detach().clone() for name, tensor in learned_state(model, model.released_names).items()}
    prefix = "prompt_learner."
    if method in LEARNER_ONLY:
        state = {name.partition(".")[2]: tensor for name, tensor in learned.items()}
        if method == "MultiModalAdapter":  # its own buffers
            tokens = {"tokenized_prompts": torch.ones(OTHER_CLASSES, 77, dtype=torch.int64)}
            return {**state, **tokens, "token_embedding": torch.randn(OTHER_CLASSES, 77, WIDTH)}
        if method == "KgCoOp":  # without any use
            state.update(bias_vectors=torch.randn(1, 512))
            state.update({f"meta_net.linear1.{kind}": torch.randn(512, 512) for kind in ("weight", "bias")})
        return {**state, **token_buffers(OTHER_CLASSES * (2 if method == "PLOT" else 1))}
    frozen = {f"image_encoder.{name}": value for name, value in model.clip.visual.state_dict().items()}
    frozen.update({f"text_encoder.{name}": value for name, value in model.text_encoder.state_dict().items()})
    if method != "VPT":
        frozen.update({prefix + name: value for name, value in token_buffers(OTHER_CLASSES).items()})
    teacher = {"PromptSRC": "prompt_learner.ZS_image_encoder", "CoPrompt": "model_distill.visual"}.get(method)
    if teacher:
        frozen.update({f"{teacher}.{name}": value for name, value in model.clip.visual.state_dict().items()})
    if method == "MMRL":
        frozen["representation_learner.prompt_embeddings"] = torch.randn(OTHER_CLASSES, 77, WIDTH)
    frozen["logit_scale"] = torch.tensor(4.6052)
    return {name: value.half() if value.is_floating_point() else value for name, value in {**frozen, **learned}.items()}


def publish(method, model, folder):
    """Write ``folder/<name>/model.pth.tar-<epoch>`` as the plugin's training loop does."""
    epoch = EPOCHS[method]
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9, weight_decay=5e-4)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(epoch))
    content = {
        "state_dict": published_state(method, model),
        "epoch": epoch,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": successor, "warmup_epoch": 1, "cons_lr": 1e-5, "last_epoch": 1},
        "val_result": None,
    }
    path = folder / FOLDER.get(method, "prompt_learner") / f"model.pth.tar-{epoch}"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", list(EPOCHS))
def test_evaluates_as_the_learned_tensors(method, tmp_path):
    source = relearn(build(method)).eval()
    path = publish(method, source, tmp_path / "released")
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(path, weights_only=True)  # it does hold objects

    trainer = train_on_four(method, tmp_path)
    images = draw_images(tiny_vit())
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model_inference(images)
        trainer.load_model(str(tmp_path / "released"), epoch=EPOCHS[method])
        after = trainer.model_inference(images)
        if method not in LEARNER_ONLY:  # whole models are stored in float16
            for tensor in learned_state(source).values():
                tensor.copy_(tensor.half())
        names = trainer.dm.dataset.classnames
        expected = source(images)[:, [NAMES.index(name) for name in names]]
    assert (before - expected).abs().max() > 0.1
    if method in ("PLOT", "PLOTPP", "MMP"):
        # Their plans stop by the mean over the batch's problems, so that a class's logit depends on the others.
        expected = rebuild(method, source, names)(images).detach()
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)


def rebuild(method, source, names):
    """The model of ``source`` for some of its classes."""
    model = build(method, classnames=names).eval()
    model.load_state_dict(learned_state(source, source.released_names))
    return model


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_promptsrc_is_one_of_ivlp(prefix, tmp_path):
    """Its second image tower lies inside the prompt learner."""
    source = relearn(build("PromptSRC"))
    state = {prefix + name: value for name, value in published_state("PromptSRC", source).items()}
    assert f"{prefix}prompt_learner.ZS_image_encoder.conv1.weight" in state
    model = build("IVLP", "N_CTX_VISION", 4, "N_CTX_TEXT", 4)
    model.load_state_dict(state)
    for tensor in learned_state(source).values():
        tensor.data.copy_(tensor.half())
    images = draw_images(tiny_vit())
    torch.testing.assert_close(model.eval()(images), source.eval()(images), atol=1e-5, rtol=1e-4)

"""Every method on small ViTs and ResNets: a step, refused settings, cached class features, a run."""

from functools import partial

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.learners import ClassContexts, TextPrompts
from prompting.methods import cocoop
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


@pytest.mark.parametrize(
    "method, words",
    [
        ("CoOp", ("N_CTX", 0, "CTX_INIT", "")),
        ("CoCoOp", ("N_CTX", 0, "CTX_INIT", "")),
        ("ProDA", ("N_CTX", 0)),
        ("PLOT", ("N", 0)),
        ("PLOTPP", ("M", 0)),
        ("PLOTPP", ("N", 0)),
        ("PLOTPP", ("N_CTX_V", 0)),
        ("VPT", ("N_CTX_VISION", 0)),
        ("IVLP", ("N_CTX_TEXT", 0)),
        ("MaPLe", ("N_CTX", 0)),
        ("KgCoOp", ("N_CTX", 0, "CTX_INIT", False)),
        ("ProGrad", ("N_CTX", 0, "CTX_INIT", False)),
        ("PromptSRC", ("N_CTX_TEXT", 0)),
        ("CoPrompt", ("PROMPT_DEPTH", 0)),
        ("MaPLe", ("PROMPT_DEPTH", 0)),
        ("UPT", ("N_CTX_VISION", 0)),
        ("UPT", ("PROMPT_DEPTH", 0)),
        ("ALIGN", ("N_CTX", 0)),
        ("ALIGN", ("TEXT_PROMPT_NUMBER", 0, "VISION_PROMPT_NUMBER", 0)),
    ],
)
def test_settings_that_learn_nothing_are_refused(method, words):
    with pytest.raises(ValueError, match=r"(depth|length|number) of \w+ prompts is 0; allowed: 1 or more$"):
        build(method, *words)


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

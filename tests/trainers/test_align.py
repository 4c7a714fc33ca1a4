"""ALIGN's model: what is learned and saved, what it refuses, and that an image's score is its own."""

from __future__ import annotations

import pytest
import torch

from prompting.checkpoint import learned_state, load_learned
from prompting.clip import load_clip
from trainers.align import CustomCLIP, ReleasedCLIP

NAMES = ["face", "golden retriever", "Boeing 737-800", "yin_yang"]


@pytest.fixture
def align(golden_clip, make_cfg):
    """Return a function that builds ALIGN from KEY, VALUE words of its node, seeded."""

    def build(*words, classnames=NAMES, clip=golden_clip):
        torch.manual_seed(0)
        small = ("TEXT_PROMPT_DEPTH", 2, "VISION_PROMPT_DEPTH", 2, "TEXT_PROMPT_NUMBER", 2, "VISION_PROMPT_NUMBER", 2)
        pairs = list(small + words)
        pairs[::2] = [f"TRAINER.ALIGN.{key}" for key in pairs[::2]]
        return CustomCLIP(make_cfg(*pairs), classnames, clip).eval()

    return build


@pytest.fixture
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("coupling", ["projected", "independent"])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_logits_and_reach(align, images, coupling, reading):
    model = align("COUPLING", coupling, "READING", reading).train()
    logits = model(images)
    assert logits.shape == (3, 4) and logits.dtype == torch.float32
    logits[0, 0].backward()
    for name, tensor in learned_state(model).items():
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name
    assert all(tensor.grad is None for tensor in model.clip.parameters())


def test_numbers_of_prompts_are_free_when_independent(align, images):
    model = align("COUPLING", "independent", "VISION_PROMPT_NUMBER", 3, "VISION_PROMPT_DEPTH", 1)
    score = model.head(
        *(
            torch.randn(shape)
            for shape in ((3, 3, 64), (4, 2, 64), (3, 3, 11, 64), (4, 2, model.tokens.ids.shape[2], 64))
        ),
        s_mask=model.token_set.transpose(0, 1),
    )
    assert score.cost.shape == (3, 4, 3, 2)
    assert model(images).shape == (3, 4)


def test_prompt_learner_of_a_side_may_be_empty(align, images):
    words = ("COUPLING", "independent", "TEXT_PROMPT_DEPTH", 0, "VISION_PROMPT_DEPTH", 0)
    model = align(*words, "TEXT_PROMPT_NUMBER", 1, "VISION_PROMPT_NUMBER", 1, "BETA", 0.0)
    assert not learned_state(model) and model(images).shape == (3, 4)


def test_score_depends_on_its_own_image_and_class_only(align, images):
    """The `paper` reading: neither batch mates, nor chunking, nor the other classes change a score."""
    whole = align()(images)
    torch.testing.assert_close(align()(images[1:2]), whole[1:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(align(classnames=NAMES[1:3])(images), whole[:, 1:3], atol=1e-4, rtol=0)


def test_state_dict_holds_learned_tensors_only(align):
    state = align().state_dict()
    assert sorted(state) == sorted(
        [
            "prompt_learner.ctx",
            "prompt_learner.proj.weight",
            "prompt_learner.proj.bias",
            "prompt_learner.compound_prompts_text.0",
            "prompt_learner.compound_prompt_projections.0.weight",
            "prompt_learner.compound_prompt_projections.0.bias",
        ]
    )


def test_whole_model_checkpoint_on_other_classes(align, images):
    """A float16 file with frozen weights and token buffers of other classes loads, and gives the learned tensors."""
    source = align(classnames=["other"])
    state = {f"image_encoder.{name}": value.half() for name, value in source.clip.visual.state_dict().items()}
    state.update({name: value.half() for name, value in source.state_dict().items()})
    state["prompt_learner.token_prefix"] = torch.zeros(1, 1, 512).half()
    target = align()
    with torch.no_grad():
        target.prompt_learner.ctx.add_(1)
    target.load_state_dict(state)
    assert torch.equal(target.prompt_learner.ctx, source.prompt_learner.ctx.half().float())


def test_checkpoint_of_another_depth(align, golden_clip):
    with pytest.raises(ValueError, match="lacks 3 of the 9 learned tensors.*depth"):
        load_learned(align("TEXT_PROMPT_DEPTH", 3, "VISION_PROMPT_DEPTH", 3), align().state_dict())
    with pytest.raises(ValueError, match="does not have.*depth"):
        load_learned(align(), align("TEXT_PROMPT_DEPTH", 3, "VISION_PROMPT_DEPTH", 3).state_dict())


@pytest.mark.parametrize(
    "words, message",
    [
        (("VISION_PROMPT_NUMBER", 3), "VISION_PROMPT_NUMBER is 3 and TEXT_PROMPT_NUMBER 2"),
        (("VISION_PROMPT_DEPTH", 1), "VISION_PROMPT_DEPTH is 1 and TEXT_PROMPT_DEPTH 2"),
        (("TEXT_PROMPT_DEPTH", 4, "VISION_PROMPT_DEPTH", 4), "4"),
        (("COUPLING", "project"), "did you mean 'projected'"),
        (("READING", "release"), "did you mean 'released'|allowed"),
        (("LAMBDA_TOKEN", 0.0), "lambda_token"),
        (("BETA", -1.0), "beta"),
        (("ENGINE", "triton"), "ENGINE is 'triton', a kernel that .* never ran on a GPU; allowed: 'torch', 'auto'"),
        (("ENGINE", "tritn"), "ENGINE is 'tritn'; allowed: 'torch', 'auto'"),
        (("N_CTX", 6), "fewer than"),
        (("CTX_INIT", "word " * 80), "prompt of 'face' has"),
    ],
)
def test_refused_in_one_line(align, words, message):
    with pytest.raises(ValueError, match=message) as error:
        align(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_engines_of_existing_yaml_files_compute_the_same(align, images, engine):
    with torch.no_grad():
        assert torch.equal(align("ENGINE", engine)(images), align()(images))


def test_class_features_are_computed_once_in_an_evaluation(align, images, monkeypatch):
    model, calls = align(), []
    forward = model.text_encoder.forward
    monkeypatch.setattr(model.text_encoder, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    with torch.no_grad():
        first = model(images)
        assert torch.equal(model(images), first) and len(calls) == 1
        model.prompt_learner.ctx.add_(0.1)  # a learned tensor changed: what was kept no longer holds
        assert not torch.equal(model(images), first) and len(calls) == 2
    model(images)
    model(images)
    assert len(calls) == 4  # with gradients nothing is kept


def test_frozen_part_stays_in_evaluation_mode(align):
    model = align().train()
    assert model.prompt_learner.training and not any(m.training for m in model.clip.modules())


def test_takes_a_model_object_of_openais_package(align, images, golden_clip_file):
    class OpenAI(torch.nn.Module):
        """A model object whose state dict has OpenAI's key names."""

        def state_dict(self, *args, **kwargs):
            return torch.load(golden_clip_file)

    OpenAI.__module__ = "clip.model"
    torch.testing.assert_close(align(clip=load_clip(OpenAI()))(images), align()(images))


def test_mmp_refuses_usect(golden_clip, make_cfg):
    with pytest.raises(ValueError, match="USECT"):
        ReleasedCLIP(make_cfg("TRAINER.MMP.USECT", True), NAMES, golden_clip)

"""ALIGN's model: gradients, numbers of prompts, scores that do not depend on other images, and refused settings."""

import pytest
import torch

from prompting.checkpoint import learned_state
from trainers.align import ALIGN, MMP

NAMES = ["face", "golden retriever", "Boeing 737-800", "yin_yang"]


@pytest.fixture
def align(golden_clip, make_cfg):
    """Return a function that builds ALIGN from KEY, VALUE words of its node, seeded."""

    def build(*words, classnames=NAMES, clip=golden_clip):
        torch.manual_seed(0)
        small = ("TEXT_PROMPT_DEPTH", 2, "VISION_PROMPT_DEPTH", 2, "TEXT_PROMPT_NUMBER", 2, "VISION_PROMPT_NUMBER", 2)
        pairs = list(small + words)
        pairs[::2] = [f"TRAINER.ALIGN.{key}" for key in pairs[::2]]
        return ALIGN.build_clip(make_cfg(*pairs), classnames, clip).eval()

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
    model, costs = align("COUPLING", "independent", "VISION_PROMPT_NUMBER", 3, "VISION_PROMPT_DEPTH", 1), []
    model.head.register_forward_hook(lambda head, args, score: costs.append(score.cost.shape))
    assert model(images).shape == (3, 4) and costs == [(3, 4, 3, 2)]


def test_score_depends_on_its_own_image_and_class_only(align, images):
    """The `paper` reading: neither batch mates, nor chunking, nor the other classes change a score."""
    whole = align()(images)
    torch.testing.assert_close(align()(images[1:2]), whole[1:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(align(classnames=NAMES[1:3])(images), whole[:, 1:3], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "words, message",
    [
        (("VISION_PROMPT_NUMBER", 3), "VISION_PROMPT_NUMBER is 3 and TEXT_PROMPT_NUMBER 2"),
        (("VISION_PROMPT_DEPTH", 1), "VISION_PROMPT_DEPTH is 1 and TEXT_PROMPT_DEPTH 2"),
        (("TEXT_PROMPT_DEPTH", 4, "VISION_PROMPT_DEPTH", 4), "4"),
        (("COUPLING", "project"), "did you mean 'projected'"),
        (("READING", "release"), "did you mean 'released'|allowed"),
        (("LAMBDA_TOKEN", 0.0), "LAMBDA_TOKEN is 0.0"),
        (("BETA", -1.0), "BETA is -1.0"),
        (("N_CTX", 6), "fewer than"),
        (("CTX_INIT", "word " * 80), "prompt of 'face' has"),
        (("ENGINE", "triton"), "TRAINER.ALIGN.ENGINE is 'triton'.*allowed: 'torch', 'auto'$"),
        (("IMAGE_SET", "patches"), "BETA is 1.0 with IMAGE_SET patches.*set BETA to 0"),
        (("IMAGE_SET", "patch"), "IMAGE_SET.*'patch'.*patches"),
        (("TEXT_PROMPT_DEPTH", 0), "TEXT_PROMPT_DEPTH is 0 under coupling projected"),
    ],
)
def test_refused_in_one_line(align, words, message):
    with pytest.raises(ValueError, match=message) as error:
        align(*words)
    assert "\n" not in str(error.value)


def test_mmp_refuses_usect(golden_clip, make_cfg):
    with pytest.raises(ValueError, match="USECT"):
        MMP.build_clip(make_cfg("TRAINER.MMP.USECT", True), NAMES, golden_clip)

"""What ALIGN contains: with the settings of configs/trainers/ALIGN/as_*.yaml it is another method, to 1e-5.

The paper's claim, case by case, on shared random weights: logits, the loss and the gradient of every learned tensor.
"""

import pytest
import torch

import train
from prompting.checkpoint import learned_state
from tests.reference.methods import NAMES, build, draw_images, relearn, tiny_resnet, tiny_vit
from trainers.align import ALIGN

# Each case: the other method, its settings, what of the YAML file does not fit a CLIP of 3 blocks and 20 tokens, and
# where in ALIGN the other's learned tensors are.
CASES = {
    "as_maple": (
        "MaPLe", ("N_CTX", 2, "CTX_INIT", "a photo of a", "PROMPT_DEPTH", 3),
        ("TEXT_PROMPT_DEPTH", 3, "VISION_PROMPT_DEPTH", 3), "prompt_learner.",
    ),
    "as_ivlp": (
        "IVLP", ("CTX_INIT", "a photo of a", "PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3),
        ("TEXT_PROMPT_DEPTH", 3, "VISION_PROMPT_DEPTH", 3), "prompt_learner.",
    ),
    "as_coop": ("CoOp", ("CTX_INIT", "a photo of a"), (), "prompt_learner.text."),
    "as_vpt": (
        "VPT", ("N_CTX_VISION", 8, "CTX_INIT", "a photo of a", "PROMPT_DEPTH_VISION", 3), ("VISION_PROMPT_DEPTH", 3),
        "prompt_learner.visual.",
    ),
    "as_plot": ("PLOT", ("N_CTX", 4, "N", 4), ("N_CTX", 4), "prompt_learner.text."),
    "as_zero_shot": ("ZeroshotCLIP", (), (), ""),
}  # fmt: skip


SAME = ("OPTIM", "DATALOADER", "INPUT", "MODEL")


def read_yaml(name):
    return train.setup_cfg(train.parse_args(["--config-file", f"configs/trainers/{name}.yaml"]))


def align(yaml, words, clip):
    """ALIGN's model with the settings of a YAML file; ``words`` override keys of its node."""
    cfg = read_yaml(f"ALIGN/{yaml}")
    words = list(words)
    words[::2] = [f"TRAINER.ALIGN.{key}" for key in words[::2]]
    cfg.merge_from_list(words)
    torch.manual_seed(9)
    return ALIGN.build_clip(cfg, NAMES, clip)


def learned_pairs(model, other, prefix):
    """Learned tensors of the two models that are the same thing: name, ALIGN's, the other's."""
    ours, theirs = learned_state(model), learned_state(other)
    pairs = {name: prefix + name[len("prompt_learner.") :] for name in theirs}
    assert set(pairs.values()) == set(ours)  # nothing is learned on one side only
    return [(name, ours[pairs[name]], theirs[name]) for name in theirs]


@pytest.mark.parametrize("clip_of", [tiny_vit, tiny_resnet], ids=["vit", "resnet"])
@pytest.mark.parametrize("yaml", list(CASES))
def test_special_case(yaml, clip_of):
    method, other_words, words, prefix = CASES[yaml]
    if clip_of is tiny_resnet and method not in ("CoOp", "PLOT", "ZeroshotCLIP"):
        pytest.skip("visual prompts need a ViT")
    clip = clip_of()
    other = relearn(build(method, *other_words, clip=clip))
    model = align(yaml, words, clip)
    pairs = learned_pairs(model, other, prefix)
    with torch.no_grad():
        for _, ours, theirs in pairs:
            ours.copy_(theirs.reshape(ours.shape))

    images, labels = draw_images(clip, 3), torch.tensor([0, 2, 1])
    (loss, logits), (other_loss, other_logits) = (m.train().training_loss(images, labels) for m in (model, other))
    torch.testing.assert_close(logits, other_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, other_loss, atol=1e-5, rtol=1e-5)
    if pairs:
        loss.backward()
        other_loss.backward()
    for name, ours, theirs in pairs:
        assert theirs.grad.abs().max() > 0, name
        torch.testing.assert_close(ours.grad, theirs.grad.reshape(ours.shape), atol=1e-5, rtol=1e-5, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), other.eval()(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "yaml, other, length",
    [
        ("as_maple", "MaPLe/vit_b16_c2_ep5_batch4_2ctx", 2),
        ("as_ivlp", "IVLP/vit_b16_c2_ep5_batch4_2+2ctx", 2),
        ("as_coop", "CoOp/vit_b16_ep50_ctxv1", 4),
        ("as_vpt", "VPT/vit_b16_c2_ep5_batch4_4", 8),
        ("as_plot", "PLOT/rn50", 16),
    ],
)
def test_training_settings_are_the_other_methods(yaml, other, length):
    """A user who runs the case trains as the method does: optimizer, batch, images, backbone."""
    ours, theirs = read_yaml(f"ALIGN/{yaml}"), read_yaml(other)
    assert [ours[key] for key in SAME] == [theirs[key] for key in SAME] and ours.TRAINER.ALIGN.N_CTX == length


def test_patches_of_several_visual_prompts():
    """With M visual prompts the set holds the O patches of each: M * O, the outputs at the prompts left out."""
    words = ("N_CTX", 4, "VISION_PROMPT_NUMBER", 3, "VISION_PROMPT_DEPTH", 2)
    model = relearn(align("as_plot", words, tiny_vit())).eval()
    images, seen = draw_images(tiny_vit()), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(images)
        prompts = model.prompt_learner()
        tokens = model.image_encoder(images, prompts.visual, prompts.deep_visual, return_tokens=True).tokens
    assert seen[0].shape == (2, 3 * 9, 64)
    for m in range(3):
        assert torch.equal(seen[0][:, 9 * m : 9 * m + 9], tokens[:, m, :9])

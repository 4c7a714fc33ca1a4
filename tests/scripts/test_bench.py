"""The benchmarks' naive path computes what the trainer's model does: logits and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dassl.config import get_cfg_default

import trainers
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from scripts.bench import common, naive
from tests.reference.clip_states import vit_state
from trainers.align import ReleasedCLIP


def test_naive_path_gives_the_same_numbers():
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    for side in ("TEXT", "VISION"):
        cfg.TRAINER.MMP[f"{side}_PROMPT_NUMBER"] = cfg.TRAINER.MMP[f"{side}_PROMPT_DEPTH"] = 2
    torch.manual_seed(0)
    model = ReleasedCLIP(cfg, ["cat", "yin_yang", "golden retriever"], load_clip(build_clip(vit_state(), "drawn")))
    learned = [p for p in model.parameters() if p.requires_grad]
    images, labels = torch.randn(2, 3, 12, 12), torch.tensor([0, 2])
    ours, (theirs, positions) = model(images), naive.logits(model, images)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    for mine, other in zip(*(torch.autograd.grad(F.cross_entropy(x, labels), learned) for x in (ours, theirs))):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-2)
    assert positions == {"text": 2 * 3 * 20, "vision": 2 * 2 * (1 + 9 + 2)}


def test_flops_are_those_of_the_products():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert common.count_flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 3 * 5 * 7


def test_class_names_are_drawn_once():
    assert common.class_names(20) == common.class_names(20) and len(set(common.class_names(200))) > 50

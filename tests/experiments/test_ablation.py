"""The variants of the ablation do what their names say."""

import pytest
import torch

from experiments.ablation import VARIANTS
from prompting.explain import transport_plans
from tests.reference.run_folders import CLASSES, tiny_clip, write_run

SMALL = ("TRAINER.ALIGN.TEXT_PROMPT_DEPTH", 2, "TRAINER.ALIGN.VISION_PROMPT_DEPTH", 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_uniform_plans_are_uniform(name, tmp_path):
    model = write_run(tmp_path / "run", "ALIGN", tiny_clip(tmp_path), tmp_path, [0] * 12, *SMALL, *VARIANTS[name])
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    one = transport_plans(model, images, CLASSES, top=1)[0].classes[0]
    levels = {"prompt": one.plan, **({} if one.tokens is None else {"token": one.tokens[0, 0]})}
    off = {level: float((plan * plan.numel() - 1).abs().max()) for level, plan in levels.items()}
    uniform = {"prompt", "token"} if "both" in name else {level for level in ("prompt", "token") if level in name}
    uniform = uniform if name.startswith("uniform") else set()
    assert ("token" in levels) == (name != "no token level")
    for level in levels:
        assert (off[level] < 0.01) == (level in uniform), (level, off)

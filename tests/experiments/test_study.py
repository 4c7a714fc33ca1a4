"""The variants of the study do what their names say, and its tables are those of its runs."""

import numpy as np
import pandas as pd
import pytest
import torch

import train
from experiments import study
from experiments.protocols import RunDefaults
from prompting.explain import transport_plans
from tests.reference.run_folders import CLASSES, tiny_clip, write_run

SMALL = ("TRAINER.ALIGN.TEXT_PROMPT_DEPTH", 2, "TRAINER.ALIGN.VISION_PROMPT_DEPTH", 2)


@pytest.mark.parametrize("name", ["defaults", *(name for name in study.VARIANTS if name.startswith("uniform"))])
def test_uniform_plans_are_uniform(name, tmp_path):
    words = (*SMALL, *study.options(name))
    model = write_run(tmp_path / "run", "ALIGN", tiny_clip(tmp_path), tmp_path, [0] * 12, *words)
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    one = transport_plans(model, images, CLASSES, top=1)[0].classes[0]
    for level, plan in {"prompts": one.plan, "tokens": one.tokens[0, 0]}.items():
        uniform = float((plan * plan.numel() - 1).abs().max()) < 0.01
        assert uniform == (name.endswith("both") or (name.startswith("uniform") and name.endswith(level)))


@pytest.mark.parametrize("name", study.VARIANTS)
def test_a_variant_changes_its_settings_alone(name, tmp_path):
    def settings(variant):
        runs = study.runs_of(variant, ["mini_source", "mini_digits"], 2, RunDefaults(output=tmp_path))
        assert [(part, len(several)) for part, several in runs.items()] == [("base", 2), ("new", 2), ("val", 1)]
        cfgs = [train.setup_cfg(train.parse_args(run.argv())) for several in runs.values() for run in several]
        assert [cfg.TEST.SPLIT for cfg in cfgs] == ["test"] * 4 + ["val"]
        assert all(cfg.TRAINER.ALIGN == cfgs[0].TRAINER.ALIGN and cfg.SEED == 2 for cfg in cfgs)
        return dict(cfgs[0].TRAINER.ALIGN)

    before, after, words = settings("defaults"), settings(name), study.VARIANTS[name].split()
    changed = {key: str(after[key]) for key in after if after[key] != before[key]}
    assert changed == dict(zip(words[::2], words[1::2]))


def rows(variant, accuracies, entropies):
    return [
        dict(zip(study.COLUMNS, (variant, "mini_source", part, seed, accuracy, *entropies)))
        for seed, parts in enumerate(accuracies, 1)
        for part, accuracy in zip(("base", "new", "val"), parts)
    ]


def test_tables():
    results = pd.DataFrame(
        rows("defaults", [(80, 40, 70), (60, 60, 72)], (2 * np.log(4), 1.0, 4.5, 3.0))
        + rows("uniform plans of tokens", [(80, 40, 60), (60, 60, 62)], (2 * np.log(4), 1.0, 5.0, 1.0))
        + rows("M = N = 1", [(60, 60, 50), (60, 30, 50)], (0.0, 1.0, 4.0, 3.0))
        + rows("no token level (BETA 0)", [(60, 60, 50), (60, 30, 50)], (np.log(4), 1.0, np.nan, np.nan))
    )
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in study.accuracy_table(results).splitlines()}
    by_hand = np.array([160 / 3, 60.0]), np.array([60.0, 40.0])  # H of each seed
    expected = [by_hand[1].mean(), 60, 45, by_hand[1].mean(), -20 / 3 / 2, np.diff(by_hand[1] - by_hand[0])[0], 50]
    expected[3:6] = [by_hand[1].mean(), (by_hand[1] - by_hand[0]).mean(), (by_hand[1] - by_hand[0]).std(ddof=1)]
    assert [float(cell) for cell in cells["M = N = 1"]] == pytest.approx(expected, abs=0.006)
    plans = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in study.plan_table(results).splitlines()}
    assert [float(cell) for cell in plans["defaults"]] == [1, 1, 0.9, 3]
    assert [cell.strip() for cell in plans["M = N = 1"]] == ["-", "1.00", "0.8000", "3.00"]
    assert [cell.strip() for cell in plans["no token level (BETA 0)"]] == ["0.5000", "1.00", "-", "-"]

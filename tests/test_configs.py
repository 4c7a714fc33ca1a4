"""Every YAML file loads, and says what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

import train
from trainers import METHODS

PROJECT = Path(__file__).resolve().parent.parent
NAMES = {method.__name__ for method in METHODS}


def cfg_of(*words):
    return train.setup_cfg(train.parse_args([str(word) for word in words]))


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs/trainers").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_method_yaml(path):
    assert path.parent.name in NAMES
    cfg = cfg_of("--config-file", path, "--trainer", path.parent.name)
    assert cfg.TRAINER.NAME == path.parent.name
    assert cfg.MODEL.BACKBONE.NAME
    assert cfg.INPUT.PIXEL_MEAN == [0.48145466, 0.4578275, 0.40821073]


@pytest.mark.parametrize("path", sorted((PROJECT / "configs/datasets").glob("*.yaml")), ids=lambda p: p.stem)
def test_dataset_yaml(path):
    from dassl.data.datasets import DATASET_REGISTRY

    assert cfg_of("--dataset-config-file", path).DATASET.NAME in DATASET_REGISTRY.registered_names()


def test_later_words_win(tmp_path):
    yaml = tmp_path / "own.yaml"
    yaml.write_text("SEED: 7\nOPTIM:\n  LR: 0.5\n  MAX_EPOCH: 3\n")
    cfg = cfg_of("--config-file", yaml, "--seed", "0", "OPTIM.MAX_EPOCH", "5", "DATASET.NUM_SHOTS", "1")
    assert (cfg.SEED, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATASET.NUM_SHOTS) == (0, 0.5, 5, 1)


def test_the_released_settings():
    """method.md's released settings are those of the YAML files."""
    cfg = cfg_of("--config-file", PROJECT / "configs/trainers/ALIGN/vit_b16_base2new.yaml")
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR_SCHEDULER) == ("sgd", 0.0025, 20, "cosine")
    assert (cfg.OPTIM.MOMENTUM, cfg.OPTIM.WEIGHT_DECAY, cfg.DATALOADER.TRAIN_X.BATCH_SIZE) == (0.9, 5e-4, 4)
    assert (cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_CONS_LR) == (1, "constant", 1e-5)
    own = cfg.TRAINER.ALIGN
    assert (own.TEXT_PROMPT_NUMBER, own.VISION_PROMPT_NUMBER, own.N_CTX, own.TEXT_PROMPT_DEPTH) == (4, 4, 2, 9)
    for shots, epochs in (("1shot", 30), ("2shot_4shot", 50), ("8shot_16shot", 80)):
        assert (
            cfg_of("--config-file", PROJECT / f"configs/trainers/ALIGN/vit_b16_fewshot_{shots}.yaml").OPTIM.MAX_EPOCH
            == epochs
        )

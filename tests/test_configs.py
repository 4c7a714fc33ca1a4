"""Every YAML file loads and has the documented values; published settings load unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

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


def test_later_words_win(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("SEED: 7\nOPTIM:\n  LR: 0.5\n  MAX_EPOCH: 3\n")
    cfg = cfg_of("--config-file", path, "--seed", "0", "OPTIM.MAX_EPOCH", "5", "DATASET.NUM_SHOTS", "1")
    assert (cfg.SEED, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATASET.NUM_SHOTS) == (0, 0.5, 5, 1)


def test_the_released_settings():
    """The YAML files have the settings that the paper and the released code state."""
    cfg = cfg_of("--config-file", PROJECT / "configs/trainers/ALIGN/vit_b16_base2new.yaml")
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR_SCHEDULER) == ("sgd", 0.0025, 20, "cosine")
    assert (cfg.OPTIM.MOMENTUM, cfg.OPTIM.WEIGHT_DECAY, cfg.DATALOADER.TRAIN_X.BATCH_SIZE) == (0.9, 5e-4, 4)
    assert (cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_CONS_LR) == (1, "constant", 1e-5)
    node = cfg.TRAINER.ALIGN
    assert (node.TEXT_PROMPT_NUMBER, node.VISION_PROMPT_NUMBER, node.N_CTX, node.TEXT_PROMPT_DEPTH) == (4, 4, 2, 9)
    for shots, epochs in (("1shot", 30), ("2shot_4shot", 50), ("8shot_16shot", 80)):
        path = PROJECT / f"configs/trainers/ALIGN/vit_b16_fewshot_{shots}.yaml"
        assert cfg_of("--config-file", path).OPTIM.MAX_EPOCH == epochs


# Nodes of published YAML files and scripts, by the project that published them.
PUBLISHED = {
    "COOP": {"N_CTX": 16, "CSC": False, "CTX_INIT": "a photo of a", "PREC": "fp16", "CLASS_TOKEN_POSITION": "middle"},
    "COCOOP": {"N_CTX": 4, "CTX_INIT": "", "PREC": "fp16"},
    "MAPLE": {"N_CTX": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 9},
    "IVLP": {
        "N_CTX_VISION": 0, "N_CTX_TEXT": 4, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH_VISION": 0,
        "PROMPT_DEPTH_TEXT": 12,
    },
    "VPT": {"N_CTX_VISION": 8, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH_VISION": 12},
    "PROMPTSRC": {
        "N_CTX_VISION": 4, "N_CTX_TEXT": 4, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH_VISION": 3,
        "PROMPT_DEPTH_TEXT": 3, "TEXT_LOSS_WEIGHT": 25, "IMAGE_LOSS_WEIGHT": 10, "GPA_MEAN": 6, "GPA_STD": 10,
    },
    "CoPrompt": {"N_CTX": 4, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 12},
    "PLOT": {"N_CTX": 16, "CSC": False, "CTX_INIT": "", "PREC": "amp", "CLASS_TOKEN_POSITION": "end", "N": 4},
    "PLOTPP": {
        "N_CTX": 4, "CSC": False, "CTX_INIT": True, "PREC": "fp16", "CLASS_TOKEN_POSITION": "end", "N": 4, "M": 4,
        "TRADE_OFF": True, "PRETRAIN_DIR": "", "MODEL_UPD": "vision", "N_CTX_V": 2,
    },
    "MMP": {
        "N_CTX": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "TEXT_PROMPT_DEPTH": 9, "VISION_PROMPT_DEPTH": 9,
        "TEXT_PROMPT_NUMBER": 4, "VISION_PROMPT_NUMBER": 4, "HIERARCHICAL": True, "USECT": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("node", list(PUBLISHED))
def test_published_keys_load_unchanged(node, tmp_path):
    path = tmp_path / "published.yaml"
    common = {"INPUT": {"SIZE": "(224, 224)"}, "OPTIM": {"LR": 0.0035, "WARMUP_CONS_LR": "1e-5"}}
    path.write_text(yaml.safe_dump({**common, "TRAINER": {node: PUBLISHED[node]}}))
    cfg = cfg_of("--config-file", path)
    assert {key: cfg.TRAINER[node][key] for key in PUBLISHED[node]} == PUBLISHED[node]
    assert (tuple(cfg.INPUT.SIZE), cfg.OPTIM.LR, cfg.OPTIM.WARMUP_CONS_LR) == ((224, 224), 0.0035, 1e-5)
    words = [word for key, value in PUBLISHED[node].items() if value != "" for word in (f"TRAINER.{node}.{key}", value)]
    assert cfg_of(*words).TRAINER[node] == cfg.TRAINER[node]  # as the published scripts give them


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_method_has_a_setting_for_the_mini_suite(name):
    cfg = cfg_of("--config-file", PROJECT / f"configs/trainers/{name}/mini.yaml")
    assert (cfg.MODEL.BACKBONE.NAME, tuple(cfg.INPUT.SIZE)) == ("mini", (64, 64))

"""Coercion rules and errors of the config."""

import pytest
from dassl.config import clean_cfg, get_cfg_default
from yacs.config import CfgNode


def test_text_is_read_as_python_and_sequences_are_converted(tmp_path):
    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.SIZE", "[48, 48]", "OPTIM.LR", "1e-5", "OPTIM.WARMUP_CONS_LR", "1e-6", "RESUME", None])
    assert (cfg.INPUT.SIZE, cfg.OPTIM.LR, cfg.OPTIM.WARMUP_CONS_LR, cfg.RESUME) == ((48, 48), 1e-5, 1e-6, None)
    file = tmp_path / "some.yaml"
    file.write_text("INPUT:\n  SIZE: (32, 16)\nOPTIM:\n  LR: 1e-4\nTRAINER:\n  MINE:\n    WORDS: b\n")
    cfg.TRAINER.MINE, cfg.TRAINER.OTHER = CfgNode({"WORDS": "a"}), CfgNode()  # plugins add plain yacs nodes
    cfg.merge_from_file(str(file))
    assert (cfg.INPUT.SIZE, cfg.OPTIM.LR, cfg.TRAINER.MINE.WORDS) == ((32, 16), 1e-4, "b")
    clean_cfg(cfg, "Mine")
    assert set(cfg.TRAINER) == {"NAME", "MINE"}
    cfg.INPUT.PIXEL_MEAN.append(1.0)
    assert len(get_cfg_default().INPUT.PIXEL_MEAN) == 3  # each call gives a new config


def test_unknown_keys_name_the_nearest(tmp_path):
    file = tmp_path / "typo.yaml"
    file.write_text("OPTIM:\n  MAX_EPOCHS: 5\n")
    cfg = get_cfg_default()
    for merge in (lambda: cfg.merge_from_list(["OPTIM.MAX_EPOCHS", 5]), lambda: cfg.merge_from_file(str(file))):
        with pytest.raises(KeyError, match=r"^Non-existent .* OPTIM.MAX_EPOCHS \(do you mean OPTIM.MAX_EPOCH\?\)$"):
            merge()
    with pytest.raises(AssertionError):  # what yacs raises for command lines, and old callers catch
        cfg.merge_from_list(["optim.lr", 0.1])
    with pytest.raises(ValueError, match="pairs"):
        cfg.merge_from_list(["OPTIM.LR"])

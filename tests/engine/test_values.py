"""How config files and values are read; those that mean nothing are refused before anything is loaded, with the key."""

import pytest
from dassl.config import check_values, clean_cfg, get_cfg_default
from dassl.engine import build_trainer
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("OPTIM:\n  LR: 0.1\nTEST:\n  SPLIT: val\nOPTIM:\n  MAX_EPOCH: 3\n", "'OPTIM' is in line 1 and in line 5"),
        ("OPTIM:\n  LR: 0.1\n  LR: 0.2\n", "'LR' is in line 2 and in line 3"),
        ("[OPTIM]: 1", "is no text"),
        ("on: 1", "the key 'on' is no text"),
        ("- OPTIM", "holds a list"),
        ("", "holds a NoneType"),
        ("OPTIM: [", "is not YAML"),
        ("A: " + "[" * 1200, "is nested too deeply"),
        ("A: &a [*a]", "has more than 100,000 values"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "100,000 values"),
        ("OPTIM:\n  LR: 2020-01-01\n", "LR"),
        ("OPTIM:\n  LR:\n", "OPTIM.LR is None; it should be a float"),
        ("OPTIM:\n  MAX_EPOCH: 010\n", "line 2: '010' is octal or in minutes to YAML; write a decimal number"),
        ("OPTIM:\n  MAX_EPOCH: 1:30\n", "line 2: '1:30' is octal or in minutes"),
        ("OPTIM:\n  LR: 1:30.5\n", "line 2: '1:30.5' is octal or in minutes"),
        ("OPTIM:\n", "OPTIM"),
        ("OPTIM:\n  NAME: " + "(" * 300, "OPTIM.NAME|NAME"),
        ("import os\nos.mkdir('made')\ncfg = {}\n", "is not YAML|holds a str"),
        ("OPTIM: !!python/object/apply:os.mkdir ['made']", "is not YAML"),
    ],
    ids=lambda value: value[:20],
)
def test_only_yaml_with_each_key_once_is_read(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.py"  # yacs would import it
    path.write_text(content)
    cfg = get_cfg_default()
    if content.endswith("((("):  # text, not a literal
        cfg.merge_from_file(str(path))
        with pytest.raises(ValueError, match=words) as caught:
            check_values(cfg)
    else:
        with pytest.raises(ValueError, match=words) as caught:
            cfg.merge_from_file(str(path))
    assert len(str(caught.value)) < 2000 and "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_any_suffix_and_merge_keys_are_read(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"OPTIM": {"LR": 0.5}}')
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    path = tmp_path / "some.py"
    path.write_text("DATALOADER:\n  TRAIN_X: &x\n    BATCH_SIZE: 7\n  TRAIN_U:\n    <<: *x\n    N_INS: 3\n")
    cfg.merge_from_file(str(path))
    node = cfg.DATALOADER.TRAIN_U
    assert (cfg.OPTIM.LR, node.BATCH_SIZE, node.N_INS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE) == (0.5, 7, 3, 7)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TEST.FINAL_MODEL", "bestval", "allowed: last_step, best_val; did you mean 'best_val'?"),
        ("TEST.SPLIT", "train", "allowed: test, val"),
        ("TEST.EVALUATOR", "Classifcation", "did you mean 'Classification'?"),
        ("OPTIM.LR", float("nan"), "allowed: finite numbers"),
        ("OPTIM.LR", -0.1, "allowed: 0 or more"),
        ("OPTIM.MOMENTUM", 1.5, "allowed: 0 or more, and below 1"),
        ("OPTIM.NAME", "sdg", "did you mean 'sgd'?"),
        ("OPTIM.MAX_EPOCH", 0, "allowed: 1 or more"),
        ("OPTIM.STEPSIZE", (0.5,), "allowed: whole numbers"),
        ("TRAIN.PRINT_FREQ", 0, "allowed: 1 or more"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", 0, "allowed: 1 or more"),
        ("DATALOADER.NUM_WORKERS", -1, "allowed: 0 or more"),
        ("DATALOADER.TRAIN_X.SAMPLER", "Random", "allowed: RandomSampler"),
        ("INPUT.SIZE", (224,), "two whole numbers"),
        ("INPUT.SIZE", ("a", "b"), "two whole numbers"),
        ("INPUT.PIXEL_STD", [0.0, 1.0, 1.0], "three numbers above 0"),
        ("INPUT.TRANSFORMS", ("random_flip", "normalise"), "did you mean 'normalize'?"),
        ("INPUT.RRCROP_SCALE", (1.0, 0.5), "0 < smallest <= largest"),
        ("INPUT.GB_K", 4, "odd number"),
        ("INPUT.TRANSFORMS", ("gaussian_blur",), "INPUT.GB_K is 21, too large for INPUT.SIZE (8, 8)"),
        ("INPUT.SIZE", (10**6, 10**6), "two whole numbers from 1 to 10000"),
        ("INPUT.EXIF", "yes", "allowed: True, False, None"),
        ("SEED", 2**32, "below"),
        ("OPTIM.SGD_NESTEROV", True, "needs a momentum"),
    ],
)
def test_values_that_mean_nothing_are_refused_first(make_cfg, key, value, words):
    cfg = make_cfg("DATASET.ROOT", "nowhere", "OPTIM.NAME", "sgd", "OPTIM.MOMENTUM", 0.0)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError) as caught:
        build_trainer(cfg)  # the data set would raise FileNotFoundError
    assert words in str(caught.value)


def test_none_and_long_keys(make_cfg):
    cfg = make_cfg()
    for key in ("OPTIM.LR", "INPUT.SIZE", "USE_CUDA", "TEST.SPLIT"):
        with pytest.raises(ValueError, match=f"{key} is None"):
            make_cfg(key, None)
    with pytest.raises(KeyError) as caught:
        cfg.merge_from_list(["X" * 10**6, 1])
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="OPTIM.LR"):
        cfg.merge_from_list(["OPTIM.LR", "(" * 10**5])

"""Every YAML file of a method loads, later words override it, and what was published has the published values."""

import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

import train
from prompting.clip.templates import template_for
from trainers import METHODS

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "trainers"
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.rglob("*.yaml"))
PHRASE = "a photo of a"
COOP = {"N_CTX": 16, "CSC": False, "CTX_INIT": "", "PREC": "fp16", "CLASS_TOKEN_POSITION": "end"}

# What the published code puts into the config node of each method.
DEFAULTS = {
    "CoOp": COOP,
    "Unified": COOP,
    "CoCoOp": {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"},
    "PLOT": {**COOP, "N": 4},
    "PLOTPP": {
        **COOP, "N_CTX": 4, "CTX_INIT": True, "N": 4, "M": 4, "TRADE_OFF": False, "PRETRAIN_DIR": "", "MODEL_UPD": "",
        "N_CTX_V": 2,
    },
    "VPT": {"N_CTX_VISION": 2, "CTX_INIT": PHRASE, "PREC": "fp16", "PROMPT_DEPTH_VISION": 1},
    "IVLP": {
        "N_CTX_VISION": 2, "N_CTX_TEXT": 2, "CTX_INIT": PHRASE, "PREC": "fp16", "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9,
    },
    "MaPLe": {"N_CTX": 2, "CTX_INIT": PHRASE, "PREC": "fp16", "PROMPT_DEPTH": 9},
    "MMP": {
        "N_CTX": 2, "CTX_INIT": PHRASE, "PREC": "fp16", "TEXT_PROMPT_DEPTH": 1, "VISION_PROMPT_DEPTH": 1,
        "TEXT_PROMPT_NUMBER": 4, "VISION_PROMPT_NUMBER": 4, "HIERARCHICAL": True, "USECT": True,
    },
    "KgCoOp": {**COOP, "CTX_INIT": False, "ALPHA": 1.0, "W": 1.0},
    "ProGrad": {**COOP, "CTX_INIT": False, "NAME": "", "GM": False, "ALPHA": 0.0, "T": 1.0, "LAMBDA": 1.0},
    "PromptSRC": {
        "N_CTX_VISION": 4, "N_CTX_TEXT": 4, "CTX_INIT": PHRASE, "PREC": "fp16", "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9, "TEXT_LOSS_WEIGHT": 25, "IMAGE_LOSS_WEIGHT": 10, "GPA_MEAN": 15, "GPA_STD": 1,
    },
    "CoPrompt": {"N_CTX": 2, "CTX_INIT": PHRASE, "PREC": "fp16", "PROMPT_DEPTH": 9, "W": 8.0, "DISTILL": "cosine"},
    "TCP": {**COOP, "CTX_INIT": False, "ALPHA": 1.0, "W": 1.0},
    "MultiModalAdapter": {
        "TEXT_CTX_INIT": "", "PREC": "amp", "ADAPTER_START": 4, "ADAPTER_END": 12, "ADAPTER_DIM": 32,
        "ADAPTER_SCALE": 0.1,
    },
    "MMRL": {
        "ALPHA": 0.7, "REG_WEIGHT": 1.0, "REP_LAYERS": (), "REP_DIM": 512, "N_REP_TOKENS": 5, "PREC": "fp16",
        "TASK": "B2N",
    },
}  # fmt: skip
CHANGED = {  # keys that this project adds or changes
    "PLOT": {"TRADE_OFF": False}, "MMP": {"USECT": False}, "CoPrompt": {"SENTENCES": "gpt_file"},
    "TCP": {"N_CTX": 4, "LAYER": 8}, "MultiModalAdapter": {"READING": "released"}, "MMRL": {"READING": "released"},
    "PromptSRC": {"READING": "released"},
}  # fmt: skip
TRAINERS = {trainer.__name__: trainer for trainer in METHODS}


def cfg_of(*words):
    return train.setup_cfg(train.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("method", list(DEFAULTS))
def test_published_keys_and_defaults(method, tmp_path):
    """They are the method's, and load as a published YAML file or script gives them."""
    trainer, published = TRAINERS[method], DEFAULTS[method]
    assert trainer.defaults() == {**published, **CHANGED.get(method, {})}
    path = tmp_path / "published.yaml"
    content = {"INPUT": {"SIZE": "(224, 224)"}, "OPTIM": {"LR": 0.0035, "WARMUP_CONS_LR": "1e-5"}}
    for key, value in published.items():
        *nodes, leaf = trainer.full_key(key).split(".")
        reduce(lambda inner, name: inner.setdefault(name, {}), nodes, content)[leaf] = value
    path.write_text(yaml.safe_dump(content))
    cfg = cfg_of("--config-file", path)
    assert {key: trainer.settings(cfg)[key] for key in published} == published
    assert (tuple(cfg.INPUT.SIZE), cfg.OPTIM.LR, cfg.OPTIM.WARMUP_CONS_LR) == ((224, 224), 0.0035, 1e-5)
    words = [word for key, value in published.items() if value != "" for word in (trainer.full_key(key), value)]
    assert trainer.settings(cfg_of(*words)) == trainer.settings(cfg)


def test_later_words_override(tmp_path):
    path = tmp_path / "custom.yaml"
    path.write_text("SEED: 7\nOPTIM:\n  LR: 0.5\n  MAX_EPOCH: 3\n")
    cfg = cfg_of("--config-file", path, "--seed", "0", "OPTIM.MAX_EPOCH", "5", "DATASET.NUM_SHOTS", "1")
    assert (cfg.SEED, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATASET.NUM_SHOTS) == (0, 0.5, 5, 1)


DEEP = {"TEXT_PROMPT_DEPTH": 9, "VISION_PROMPT_DEPTH": 9}
TWO = {"TEXT_PROMPT_NUMBER": 2, "VISION_PROMPT_NUMBER": 2}
WORDS = {"CTX_INIT": PHRASE}
B16 = "ViT-B/16"

EPOCHS = {"": 50, "_ep100": 100, "_ep200": 200}
FEW_SHOTS = {"1shot": 30, "2shot_4shot": 50, "8shot_16shot": 80}
JOINT = {"MODEL_UPD": "joint"}
PROGRAD = {"CTX_INIT": True, "NAME": "prograd"}
VISION = {"TRADE_OFF": True, "MODEL_UPD": "vision"}
MMA = {"TEXT_CTX_INIT": PHRASE, "ADAPTER_START": 5, "ADAPTER_SCALE": 0.001}
MMRL = {"REP_LAYERS": (6, 7, 8, 9, 10, 11, 12), "PREC": "amp"}
OPTIMIZERS = {"TCP": "adam", "MMRL": "adamw"}  # the others: sgd
NO_WARMUP = ("MultiModalAdapter/vit_b16_ep5", "MultiModalAdapter/vit_b16_ep5_imnet", "MMRL/vit_b16_cross_datasets")
BACKBONES = {"rn50": "RN50", "rn101": "RN101", "vit_b32": "ViT-B/32", "vit_b16": B16}
COOP_FILES = (
    "rn50 rn50_ep100 rn50_ep50 rn50_ctxv1 rn50_ep50_ctxv1 rn101 rn101_ep50 vit_b32 vit_b32_ep50 "
    "vit_b16 vit_b16_ep100 vit_b16_ep50 vit_b16_ctxv1 vit_b16_ep100_ctxv1 vit_b16_ep50_ctxv1"
).split()


def coop(name):
    """CoOp's file names say everything: the backbone, the epochs (200 if not named), the words of the context."""
    backbone, epochs, words = re.fullmatch(r"(\w+?)(?:_ep(\d+))?(_ctxv1)?", name).groups()
    return BACKBONES[backbone], 0.002, int(epochs or 200), 32, WORDS if words else {}


# YAML -> backbone, rate, epochs, images per training batch, and what differs from the defaults in the method's node.
PUBLISHED = {
    **{f"CoOp/{name}": coop(name) for name in COOP_FILES},
    "CoCoOp/vit_b16_c16_ep10_batch1": (B16, 0.002, 10, 1, {}),
    "CoCoOp/vit_b16_c8_ep10_batch1": (B16, 0.002, 10, 1, {"N_CTX": 8}),
    "CoCoOp/vit_b16_c4_ep10_batch1": (B16, 0.002, 10, 1, {"N_CTX": 4}),
    "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1": (B16, 0.002, 10, 1, {"N_CTX": 4, **WORDS}),
    **{f"PLOT/rn50{ending}": ("RN50", 0.002, epochs, 128, {}) for ending, epochs in EPOCHS.items()},
    "PLOTPP/vit": (B16, 0.002, 50, 32, {}),
    **{f"PLOTPP/vit_vision{ending}": (B16, 0.002, epochs, 32, VISION) for ending, epochs in EPOCHS.items()},
    **{f"PLOTPP/vit_joint{ending}": (B16, 0.002, epochs, 32, JOINT) for ending, epochs in EPOCHS.items()},
    **{f"Unified/vit_b16_ep{n}": (B16, 0.002, n, 32, {"N_CTX": 4, **WORDS}) for n in (50, 100, 200)},
    "VPT/vit_b16_c2_ep5_batch4_4": (B16, 0.0025, 5, 4, {"N_CTX_VISION": 8, "PROMPT_DEPTH_VISION": 12}),
    "IVLP/vit_b16_c2_ep5_batch4_2+2ctx": (
        B16, 0.0035, 5, 4, {"PROMPT_DEPTH_VISION": 12, "PROMPT_DEPTH_TEXT": 12},
    ),
    "IVLP/vit_b16_c2_ep20_batch4_4+4ctx": (B16, 0.0025, 20, 4, {"N_CTX_VISION": 4, "N_CTX_TEXT": 4}),
    "IVLP/vit_b16_c2_ep5_batch4_4ctx_language_only": (
        B16, 0.0025, 5, 4, {"N_CTX_VISION": 0, "N_CTX_TEXT": 4, "PROMPT_DEPTH_VISION": 0, "PROMPT_DEPTH_TEXT": 12},
    ),
    "MaPLe/vit_b16_c2_ep5_batch4_2ctx": (B16, 0.0035, 5, 4, {}),
    "MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets": (B16, 0.0026, 2, 4, {"PROMPT_DEPTH": 3}),
    **{f"MaPLe/vit_b16_fewshot_{shots}": (B16, 0.0035, epochs, 4, {}) for shots, epochs in FEW_SHOTS.items()},
    "MaPLe/vit_b16_fewshot_imagenet": (B16, 0.0035, 20, 4, {}),
    "ALIGN/vit_b16_base2new": (B16, 0.0025, 20, 4, {}),
    "ALIGN/vit_b16_base2new_sun397": (B16, 0.002, 20, 4, TWO),
    **{f"ALIGN/vit_b16_fewshot_{shots}": (B16, 0.0025, epochs, 4, {}) for shots, epochs in FEW_SHOTS.items()},
    "MMP/vit_b16_c2_ep5_batch4_2ctx": (B16, 0.0025, 20, 4, DEEP),
    "MMP/sun397": (B16, 0.002, 20, 4, {**DEEP, **TWO}),
    "MMP/vit_h": ("ViT-H/14", 0.0025, 20, 4, DEEP),
    **{f"MMP/vit_b16_fewshot_{shots}": (B16, 0.0025, epochs, 4, DEEP) for shots, epochs in FEW_SHOTS.items()},
    "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx": (B16, 0.0025, 20, 4, {}),
    "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets": (
        B16, 0.0025, 20, 4, {"PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3, "GPA_MEAN": 6, "GPA_STD": 10},
    ),
    "PromptSRC/vit_b16_c2_ep50_batch4_4+4ctx_few_shot": (B16, 0.0025, 50, 4, {"GPA_MEAN": 30, "GPA_STD": 30}),
    "KgCoOp/vit_b16_ep100_ctxv1": (B16, 0.002, 100, 128, {"CTX_INIT": True}),
    "KgCoOp/rn50_ep100": ("RN50", 0.002, 100, 128, {"CTX_INIT": True}),
    "ProGrad/rn50": ("RN50", 0.002, 200, 32, PROGRAD),
    "ProGrad/rn50_ep100": ("RN50", 0.002, 100, 32, PROGRAD),
    "ProGrad/rn50_ep50": ("RN50", 0.002, 50, 32, PROGRAD),
    "CoPrompt/coprompt": (B16, 0.0035, 8, 4, {"W": 1.0}),
    "TCP/vit_b16_ep100_ctxv1": (B16, 0.002, 50, 32, {}),
    "MultiModalAdapter/vit_b16_ep5": (B16, 0.0015, 5, 16, MMA),
    "MultiModalAdapter/vit_b16_ep5_imnet": (B16, 0.0015, 5, 128, MMA),
    "MMRL/vit_b16": (B16, 0.001, 10, 4, MMRL),
    "MMRL/vit_b16_imagenet": (B16, 0.001, 5, 32, MMRL),
    "MMRL/vit_b16_few_shot": (B16, 0.001, 50, 32, {**MMRL, "REG_WEIGHT": 0.5}),
    "MMRL/vit_b16_cross_datasets": (B16, 0.001, 1, 32, {**MMRL, "REG_WEIGHT": 0.2}),
}  # fmt: skip
NOTHING_TO_TRAIN = {
    "CoOp/rn50_val": {},
    "ZeroshotCLIP/vit_b16": {"TEMPLATES": "dataset"},
    "ZeroshotCLIP/vit_b16_ensemble": {"TEMPLATES": "ensemble"},
}
OTHER_FORM = ("TipAdapterF/rn50",)  # published, but not in the form of Dassl


@pytest.mark.parametrize("name", NAMES)
def test_yaml(name):
    cfg, trainer = cfg_of("--config-file", FOLDER / f"{name}.yaml"), TRAINERS[name.split("/")[0]]
    assert cfg.MODEL.BACKBONE.NAME and cfg.INPUT.PIXEL_MEAN == [0.48145466, 0.4578275, 0.40821073]
    if name in NOTHING_TO_TRAIN:
        assert trainer.settings(cfg) == {**trainer.defaults(), **NOTHING_TO_TRAIN[name]}
    elif name in PUBLISHED:
        backbone, rate, epochs, batch, changes = PUBLISHED[name]
        assert cfg.MODEL.BACKBONE.NAME == backbone
        assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE) == (rate, epochs, batch)
        optim = (cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.MOMENTUM, cfg.OPTIM.WEIGHT_DECAY)
        assert optim == (OPTIMIZERS.get(trainer.__name__, "sgd"), "cosine", 0.9, 5e-4)
        warmup = (cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_CONS_LR)
        assert warmup == (name not in NO_WARMUP, "constant", 1e-5)
        coprompt = trainer.node == "CoPrompt"
        transforms = ["randaugment"] if coprompt else ["random_resized_crop", "random_flip"]
        assert (cfg.DATALOADER.K_TRANSFORMS, list(cfg.INPUT.TRANSFORMS)) == (1 + coprompt, [*transforms, "normalize"])
        assert trainer.settings(cfg) == {**trainer.defaults(), **changes}
    elif name not in OTHER_FORM:  # the header says that it is not published
        header = (FOLDER / f"{name}.yaml").read_text().splitlines()[0]
        marks = ("mini suite", "ALIGN as ", "not a published setting", "no published files")
        assert any(words in header for words in marks)
    if name.endswith("/mini"):
        assert (cfg.MODEL.BACKBONE.NAME, tuple(cfg.INPUT.SIZE)) == ("mini", (64, 64))


def test_every_published_file_and_a_setting_for_the_mini_suite_exist():
    assert {*PUBLISHED, *(f"{method}/mini" for method in TRAINERS)} <= set(NAMES)


def test_tip_adapter_f():
    """The values of its file for ImageNet, and the optimizer of its code; the trainer sets the cosine per step."""
    cfg = cfg_of("--config-file", FOLDER / "TipAdapterF/rn50.yaml")
    optim = (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY)
    assert (cfg.MODEL.BACKBONE.NAME, *optim) == ("RN50", "adamw", 1e-3, 0.01)
    assert (cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.TEST.FINAL_MODEL) == (20, 256, "best_val")
    assert tuple(cfg.INPUT.RRCROP_SCALE) == (0.5, 1.0)
    node = cfg.TRAINER.TIPADAPTERF
    assert (node.INIT_BETA, node.INIT_ALPHA, node.AUGMENT_EPOCH) == (1.0, 1.17, 10)
    assert (tuple(node.SEARCH_SCALE), tuple(node.SEARCH_STEP)) == ((7.0, 3.0), (200, 20))


@pytest.mark.parametrize("method", sorted(path.parent.name for path in FOLDER.glob("*/mini.yaml")))
def test_mini_settings_fit_sentences_that_go_on_after_the_class_name(method):
    words = ["--trainer", method, "--config-file", f"configs/trainers/{method}/mini.yaml"]
    cfg = cfg_of(*words, "--dataset-config-file", "configs/datasets/mini_food.yaml")
    trainer = TRAINERS[method]
    assert not template_for("MiniFood").endswith("{}.")  # or the test says nothing
    names = {"dataset": "MiniFood", "template": cfg.DATASET.TEMPLATE}
    trainer.model_class("mini", ["apple", "hot dog"], trainer.options(cfg), **names)

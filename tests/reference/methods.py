"""Every method on CLIPs that are tiny, and not of the proportions 512 : 768; trainers on a data set of four images."""

import functools
from pathlib import Path

import numpy as np
import torch
import yaml
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import build_trainer
from PIL import Image
from yacs.config import CfgNode

import trainers
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from tests.reference.clip_states import resnet_state, vit_state
from tests.reference.configs import default_cfg

NAMES = ["face", "golden retriever", "airplane"]
METHODS = {method.__name__: method for method in trainers.METHODS}
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "trainers"


@functools.cache
def tiny_vit():
    """A CLIP with d_v : d_l of 2 : 1, 3 blocks a tower, 12 x 12 images of 9 patches."""
    return load_clip(build_clip(vit_state(embed=64), "a drawn ViT"))


@functools.cache
def tiny_resnet():
    return load_clip(build_clip(resnet_state(embed=64), "a drawn ResNet"))


# Proportions of d_v : d_l other than 2 : 1, and other grids of patches.
PROPORTIONS = {
    "d_v < d_l": {"d_v": 48, "d_l": 64, "grid": 2, "patch": 4, "embed": 96},
    "5 : 4, as ViT-H/14": {"d_v": 40, "d_l": 32, "grid": 5, "patch": 3, "embed": 80},
}


@functools.cache
def proportioned_vit(name):
    return load_clip(build_clip(vit_state(seed=3, **PROPORTIONS[name]), f"a drawn ViT, {name}"))


@functools.cache
def other_resnet():
    """A ResNet that reads 96 x 96 images in 9 regions, of other widths than ``tiny_resnet``."""
    return load_clip(build_clip(resnet_state(seed=3, width=4, d_l=48, embed=96, side=3), "another drawn ResNet"))


def config(method, *words):
    """A config with the method's node as in its mini.yaml, which fits the tiny CLIPs; ``words`` override its keys."""
    cfg = default_cfg()
    trainer, mini = METHODS[method], CfgNode(yaml.safe_load((CONFIGS / method / "mini.yaml").read_text()))
    values = {}
    for key in trainer.defaults():
        *nodes, leaf = trainer.full_key(key).split(".")
        node = functools.reduce(lambda outer, name: outer.get(name, {}), nodes, mini)
        values.update({key: node[leaf]} if leaf in node else {})
    pairs = [word for pair in values.items() for word in pair] + list(words)
    pairs[::2] = [key if "." in key or key in cfg else trainer.full_key(key) for key in pairs[::2]]
    cfg.merge_from_list(pairs)
    return cfg


def build(method, *words, clip=None, classnames=NAMES, seed=0):
    """A method's model, drawn from ``seed``."""
    torch.manual_seed(seed)
    model = METHODS[method].build_clip(config(method, *words), classnames, clip or tiny_vit())
    if method == "TipAdapterF":  # which learns nothing without a cache
        model.adapter.resize(range(len(classnames)), classnames)
        model.fill_cache([[draw_images(model.clip, len(classnames))]])
    return model


def draw_images(clip, number=2, seed=1):
    height, width = (
        clip.visual.image_size if isinstance(clip.visual.image_size, tuple) else (clip.visual.image_size,) * 2
    )
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(seed))


def relearn(model, seed=5, std=0.3):
    """Draw all learned tensors anew, so that nothing stands where it started."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.copy_(std * torch.randn(tensor.shape, generator=stream))
    return model


@DATASET_REGISTRY.register()
class FourImages(DatasetBase):
    """Two images to train on, two to test on."""

    def __init__(self, cfg):
        data = [Datum(f"{cfg.DATASET.ROOT}/{i}.png", i % 2, 0, NAMES[i % 2]) for i in range(4)]
        super().__init__(train_x=data[:2], val=data[2:], test=data[2:])


def train_on_four(method, folder, *words):
    """A trainer of ``method`` with the tiny ViT, on `FourImages` below ``folder``."""
    folder = Path(folder)
    clip_file = folder / "tiny.pt"
    if not clip_file.is_file():
        torch.save(vit_state(embed=64), clip_file)
        for i in range(4):
            pixels = np.random.RandomState(i).randint(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    cfg = config(
        method,
        *("DATASET.NAME", "FourImages", "DATASET.ROOT", str(folder), "TRAINER.NAME", method, "USE_CUDA", False),
        *("MODEL.BACKBONE.NAME", str(clip_file), "INPUT.SIZE", (12, 12), "INPUT.TRANSFORMS", ("normalize",)),
        *("OUTPUT_DIR", str(folder / "out"), "DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 2),
        *("OPTIM.NAME", "sgd", "OPTIM.LR", 0.05, "OPTIM.MAX_EPOCH", 1, "OPTIM.LR_SCHEDULER", "cosine"),
        *("PREC", "fp32", *words),
    )
    return build_trainer(cfg)

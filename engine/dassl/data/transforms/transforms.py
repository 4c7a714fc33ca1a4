"""Image transforms by name, always applied in the same order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Callable

import torchvision.transforms as T
from dassl.utils import check_availability
from torchvision.transforms import InterpolationMode
from yacs.config import CfgNode

from .augment import RandAugment2, RandAugmentFixMatch
from .single import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation

logger = logging.getLogger(__name__)

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # accepted and ignored: part of every test transform
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def _mode(cfg: CfgNode) -> InterpolationMode:
    check_availability(cfg.INPUT.INTERPOLATION, list(INTERPOLATION_MODES))
    return INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]


def _normalize(cfg: CfgNode) -> T.Normalize:
    return T.Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD)


def build_plain_transform(cfg: CfgNode, choices: Sequence[str] | None = None) -> T.Compose:
    """Return the transform without augmentation: resize to ``INPUT.SIZE``, to a tensor, normalize if chosen."""
    chosen = cfg.INPUT.TRANSFORMS if choices is None else choices
    steps = [T.Resize(cfg.INPUT.SIZE, interpolation=_mode(cfg)), T.ToTensor()]
    return T.Compose(steps + ([_normalize(cfg)] if "normalize" in chosen else []))


Step = tuple[bool, str, Callable[[], Any]]  # whether, what the log says, the transform


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> T.Compose | None:
    """Return the training or test transform of a config.

    Args:
        cfg: config; reads ``INPUT``.
        is_train: training (with augmentation) or test (resize the short edge, cut the centre).
        choices: names that replace ``INPUT.TRANSFORMS``; their order does not matter.

    Returns:
        The transform; None if ``INPUT.NO_TRANSFORM``.

    Raises:
        ValueError: unknown name or interpolation.
    """
    if cfg.INPUT.NO_TRANSFORM:
        logger.info("Note: no transform is applied!")
        return None
    chosen = cfg.INPUT.TRANSFORMS if choices is None else choices
    for name in chosen:
        check_availability(name, AVAI_CHOICES)
    logger.info("Building transform_train" if is_train else "Building transform_test")
    steps = (_train_geometry(cfg, chosen) + _train_colours(cfg, chosen)) if is_train else _test_geometry(cfg)
    transforms = []
    for wanted, text, make in steps + _tensor_steps(cfg, chosen, is_train):
        if wanted:
            logger.info("+ %s", text)
            transforms.append(make())
    return T.Compose(transforms)


def _train_geometry(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    c, size, mode = cfg.INPUT, cfg.INPUT.SIZE, _mode(cfg)
    uncropped = "random_crop" not in chosen and "random_resized_crop" not in chosen
    return [
        (uncropped, f"resize to {size[0]}x{size[1]}", lambda: T.Resize(size, interpolation=mode)),
        ("random_translation" in chosen, "random translation", lambda: Random2DTranslation(size[0], size[1])),
        (
            "random_crop" in chosen,
            f"random crop (padding = {c.CROP_PADDING})",
            lambda: T.RandomCrop(size, padding=c.CROP_PADDING),
        ),
        (
            "random_resized_crop" in chosen,
            f"random resized crop (size={size}, scale={c.RRCROP_SCALE})",
            lambda: T.RandomResizedCrop(size, scale=c.RRCROP_SCALE, interpolation=mode),
        ),
        ("random_flip" in chosen, "random flip", T.RandomHorizontalFlip),
    ]


def _train_colours(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    c = cfg.INPUT
    n, m = c.RANDAUGMENT_N, c.RANDAUGMENT_M
    b, co, s, h = c.COLORJITTER_B, c.COLORJITTER_C, c.COLORJITTER_S, c.COLORJITTER_H

    def policy(name: str) -> Step:
        table = T.AutoAugmentPolicy[name.upper()]
        return (f"{name}_policy" in chosen, f"{name} policy", lambda: T.AutoAugment(table, fill=[128] * 3))

    return [
        policy("imagenet"),
        policy("cifar10"),
        policy("svhn"),
        ("randaugment" in chosen, f"randaugment (n={n}, m={m})", lambda: T.RandAugment(n, m)),
        ("randaugment_fixmatch" in chosen, f"randaugment_fixmatch (n={n})", lambda: RandAugmentFixMatch(n)),
        ("randaugment2" in chosen, f"randaugment2 (n={n})", lambda: RandAugment2(n)),
        (
            "colorjitter" in chosen,
            f"color jitter (brightness={b}, contrast={co}, saturation={s}, hue={h})",
            lambda: T.ColorJitter(brightness=b, contrast=co, saturation=s, hue=h),
        ),
        ("randomgrayscale" in chosen, "random gray scale", lambda: T.RandomGrayscale(p=c.RGS_P)),
        (
            "gaussian_blur" in chosen,
            f"gaussian blur (kernel={c.GB_K})",
            lambda: T.RandomApply([T.GaussianBlur(c.GB_K)], p=c.GB_P),
        ),
    ]


def _test_geometry(cfg: CfgNode) -> list[Step]:
    size, mode = cfg.INPUT.SIZE, _mode(cfg)
    edge = max(size)
    return [
        (True, f"resize the smaller edge to {edge}", lambda: T.Resize(edge, interpolation=mode)),
        (True, f"{size[0]}x{size[1]} center crop", lambda: T.CenterCrop(size)),
    ]


def _tensor_steps(cfg: CfgNode, chosen: Sequence[str], is_train: bool) -> list[Step]:
    c = cfg.INPUT
    return [
        (True, "to torch tensor of range [0, 1]", T.ToTensor),
        (
            is_train and "cutout" in chosen,
            f"cutout (n_holes={c.CUTOUT_N}, length={c.CUTOUT_LEN})",
            lambda: Cutout(c.CUTOUT_N, c.CUTOUT_LEN),
        ),
        (
            "normalize" in chosen,
            f"normalization (mean={c.PIXEL_MEAN}, std={c.PIXEL_STD})",
            lambda: _normalize(cfg),
        ),
        (
            is_train and "gaussian_noise" in chosen,
            f"gaussian noise (mean={c.GN_MEAN}, std={c.GN_STD})",
            lambda: GaussianNoise(c.GN_MEAN, c.GN_STD),
        ),
        ("instance_norm" in chosen, "instance normalization", InstanceNormalization),
    ]

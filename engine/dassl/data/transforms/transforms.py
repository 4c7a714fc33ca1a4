"""Image transforms by name, always applied in one fixed order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torchvision.transforms as T
from dassl.utils import check_availability
from torchvision.transforms import InterpolationMode
from yacs.config import CfgNode

from .augment import RandAugment2, RandAugmentFixMatch
from .randaugment import RandAugment
from .single import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation

logger = logging.getLogger(__name__)

# "center_crop" is accepted and ignored: it is part of every test transform
AVAI_CHOICES = [
    "random_flip", "random_resized_crop", "normalize", "instance_norm", "random_crop", "random_translation",
    "center_crop", "cutout", "imagenet_policy", "cifar10_policy", "svhn_policy", "randaugment",
    "randaugment_fixmatch", "randaugment2", "gaussian_noise", "colorjitter", "randomgrayscale", "gaussian_blur",
]  # fmt: skip

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
    """Return the transform without augmentation: resize to ``INPUT.SIZE``, make a tensor, normalize if chosen."""
    chosen = cfg.INPUT.TRANSFORMS if choices is None else choices
    steps = [T.Resize(cfg.INPUT.SIZE, interpolation=_mode(cfg)), T.ToTensor()]
    return T.Compose(steps + ([_normalize(cfg)] if "normalize" in chosen else []))


ALWAYS = ""
Step = tuple[str, str, Callable[[], Any]]  # name in INPUT.TRANSFORMS or ALWAYS, text for the log, constructor


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> T.Compose | None:
    """Return the training or test transform of a config.

    Args:
        cfg: config; reads ``INPUT``.
        is_train: training (with augmentation) or test (resize the shorter edge, crop the centre).
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
    steps = _train_steps(cfg, chosen) if is_train else _test_steps(cfg)
    transforms = []
    for name, text, make in steps:
        if name in chosen or name == ALWAYS:
            logger.info("+ %s", text)
            transforms.append(make())
    return T.Compose(transforms)


def _train_steps(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    c, size, mode = cfg.INPUT, cfg.INPUT.SIZE, _mode(cfg)
    n, m, holes, noise = c.RANDAUGMENT_N, c.RANDAUGMENT_M, (c.CUTOUT_N, c.CUTOUT_LEN), (c.GN_MEAN, c.GN_STD)
    jitter = {name: c[f"COLORJITTER_{name[0].upper()}"] for name in ("brightness", "contrast", "saturation", "hue")}
    jitter_text = ", ".join(f"{name}={value}" for name, value in jitter.items())

    def policy(name: str) -> Step:
        table = T.AutoAugmentPolicy[name.upper()]
        return f"{name}_policy", f"{name} policy", lambda: T.AutoAugment(table, fill=[128] * 3)

    def resized_crop() -> Any:
        return T.RandomResizedCrop(size, scale=c.RRCROP_SCALE, interpolation=mode)

    def blur() -> Any:
        return T.RandomApply([T.GaussianBlur(c.GB_K)], p=c.GB_P)

    resize: Step = (ALWAYS, f"resize to {size[0]}x{size[1]}", lambda: T.Resize(size, interpolation=mode))
    to_tensor, normalize, instance_norm = _tensor_steps(cfg)
    pad = c.CROP_PADDING
    return [
        *([] if "random_crop" in chosen or "random_resized_crop" in chosen else [resize]),
        ("random_translation", "random translation", lambda: Random2DTranslation(size[0], size[1])),
        ("random_crop", f"random crop (padding = {pad})", lambda: T.RandomCrop(size, padding=pad)),
        ("random_resized_crop", f"random resized crop (size={size}, scale={c.RRCROP_SCALE})", resized_crop),
        ("random_flip", "random flip", T.RandomHorizontalFlip),
        *map(policy, ("imagenet", "cifar10", "svhn")),
        ("randaugment", f"randaugment (n={n}, m={m})", lambda: RandAugment(n, m)),
        ("randaugment_fixmatch", f"randaugment_fixmatch (n={n})", lambda: RandAugmentFixMatch(n)),
        ("randaugment2", f"randaugment2 (n={n})", lambda: RandAugment2(n)),
        ("colorjitter", f"color jitter ({jitter_text})", lambda: T.ColorJitter(**jitter)),
        ("randomgrayscale", "random gray scale", lambda: T.RandomGrayscale(p=c.RGS_P)),
        ("gaussian_blur", f"gaussian blur (kernel={c.GB_K})", blur),
        to_tensor,
        ("cutout", f"cutout (n_holes={holes[0]}, length={holes[1]})", lambda: Cutout(*holes)),
        normalize,
        ("gaussian_noise", f"gaussian noise (mean={noise[0]}, std={noise[1]})", lambda: GaussianNoise(*noise)),
        instance_norm,
    ]


def _test_steps(cfg: CfgNode) -> list[Step]:
    size, mode = cfg.INPUT.SIZE, _mode(cfg)
    edge = max(size)
    return [
        (ALWAYS, f"resize the smaller edge to {edge}", lambda: T.Resize(edge, interpolation=mode)),
        (ALWAYS, f"{size[0]}x{size[1]} center crop", lambda: T.CenterCrop(size)),
        *_tensor_steps(cfg),
    ]


def _tensor_steps(cfg: CfgNode) -> list[Step]:
    c = cfg.INPUT
    return [
        (ALWAYS, "to torch tensor of range [0, 1]", T.ToTensor),
        ("normalize", f"normalization (mean={c.PIXEL_MEAN}, std={c.PIXEL_STD})", lambda: _normalize(cfg)),
        ("instance_norm", "instance normalization", InstanceNormalization),
    ]

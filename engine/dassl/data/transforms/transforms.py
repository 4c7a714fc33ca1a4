"""Image transforms by name, always applied in one fixed order."""

import logging
from collections.abc import Sequence
from typing import Any

import torchvision.transforms as T
from dassl.utils import check_availability
from torchvision.transforms import InterpolationMode
from yacs.config import CfgNode

from . import augment as A
from .randaugment import RandAugment

logger = logging.getLogger(__name__)

# "center_crop" is accepted and ignored: it is part of every test transform
AVAI_CHOICES = (
    "random_flip random_resized_crop normalize instance_norm random_crop random_translation center_crop cutout "
    "imagenet_policy cifar10_policy svhn_policy randaugment randaugment_fixmatch randaugment2 gaussian_noise "
    "colorjitter randomgrayscale gaussian_blur"
).split()

INTERPOLATION_MODES = {name: InterpolationMode(name) for name in ("bilinear", "bicubic", "nearest")}

ALWAYS = ""
Step = tuple[str, str, Any]  # name in INPUT.TRANSFORMS or ALWAYS, text for the log, transform


def _mode(cfg: CfgNode) -> InterpolationMode:
    check_availability(cfg.INPUT.INTERPOLATION, list(INTERPOLATION_MODES))
    return INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]


def build_plain_transform(cfg: CfgNode) -> T.Compose:
    """Return the transform without augmentation: resize to ``INPUT.SIZE``, make a tensor, normalize if chosen."""
    steps = [(ALWAYS, "", T.Resize(cfg.INPUT.SIZE, interpolation=_mode(cfg))), *_tensor_steps(cfg)[:2]]
    return T.Compose([transform for name, _, transform in steps if name in (ALWAYS, *cfg.INPUT.TRANSFORMS)])


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> T.Compose | None:
    """Return the transform of ``cfg.INPUT``; None if ``INPUT.NO_TRANSFORM``.

    Args:
        cfg: config.
        is_train: training (with augmentation) or test (resize the shorter edge, crop the centre).
        choices: names that replace ``INPUT.TRANSFORMS``; their order does not matter.

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
    steps = [s for s in (_train_steps(cfg, chosen) if is_train else _test_steps(cfg)) if s[0] in (ALWAYS, *chosen)]
    for _, text, _ in steps:
        logger.info("+ %s", text)
    return T.Compose([transform for _, _, transform in steps])


def _train_steps(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    c, size, mode = cfg.INPUT, cfg.INPUT.SIZE, _mode(cfg)
    n, m, pad, scale = c.RANDAUGMENT_N, c.RANDAUGMENT_M, c.CROP_PADDING, c.RRCROP_SCALE
    jitter = {name: c[f"COLORJITTER_{name[0].upper()}"] for name in ("brightness", "contrast", "saturation", "hue")}
    jitter_text = ", ".join(f"{name}={value}" for name, value in jitter.items())
    resize = (ALWAYS, f"resize to {size[0]}x{size[1]}", T.Resize(size, interpolation=mode))
    resized_crop = T.RandomResizedCrop(size, scale=scale, interpolation=mode)
    blur = T.RandomApply([T.GaussianBlur(c.GB_K)], p=c.GB_P)

    def policy(name: str) -> Step:
        return f"{name}_policy", f"{name} policy", T.AutoAugment(T.AutoAugmentPolicy[name.upper()], fill=[128] * 3)

    to_tensor, normalize, instance_norm = _tensor_steps(cfg)
    return [
        *([] if "random_crop" in chosen or "random_resized_crop" in chosen else [resize]),
        ("random_translation", "random translation", A.Random2DTranslation(size[0], size[1])),
        ("random_crop", f"random crop (padding = {pad})", T.RandomCrop(size, padding=pad)),
        ("random_resized_crop", f"random resized crop (size={size}, scale={scale})", resized_crop),
        ("random_flip", "random flip", T.RandomHorizontalFlip()),
        *map(policy, ("imagenet", "cifar10", "svhn")),
        ("randaugment", f"randaugment (n={n}, m={m})", RandAugment(n, m)),
        ("randaugment_fixmatch", f"randaugment_fixmatch (n={n})", A.RandAugmentFixMatch(n)),
        ("randaugment2", f"randaugment2 (n={n})", A.RandAugment2(n)),
        ("colorjitter", f"color jitter ({jitter_text})", T.ColorJitter(**jitter)),
        ("randomgrayscale", "random gray scale", T.RandomGrayscale(p=c.RGS_P)),
        ("gaussian_blur", f"gaussian blur (kernel={c.GB_K})", blur),
        to_tensor,
        ("cutout", f"cutout (n_holes={c.CUTOUT_N}, length={c.CUTOUT_LEN})", A.Cutout(c.CUTOUT_N, c.CUTOUT_LEN)),
        normalize,
        ("gaussian_noise", f"gaussian noise (mean={c.GN_MEAN}, std={c.GN_STD})", A.GaussianNoise(c.GN_MEAN, c.GN_STD)),
        instance_norm,
    ]


def _test_steps(cfg: CfgNode) -> list[Step]:
    size, edge = cfg.INPUT.SIZE, max(cfg.INPUT.SIZE)
    return [
        (ALWAYS, f"resize the smaller edge to {edge}", T.Resize(edge, interpolation=_mode(cfg))),
        (ALWAYS, f"{size[0]}x{size[1]} center crop", T.CenterCrop(size)),
        *_tensor_steps(cfg),
    ]


def _tensor_steps(cfg: CfgNode) -> list[Step]:
    mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    return [
        (ALWAYS, "to torch tensor of range [0, 1]", T.ToTensor()),
        ("normalize", f"normalization (mean={mean}, std={std})", T.Normalize(mean, std)),
        ("instance_norm", "instance normalization", A.InstanceNormalization()),
    ]

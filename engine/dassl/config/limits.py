"""The values that a config may have, checked before anything is loaded."""

import math
from collections.abc import Callable
from typing import Any

from dassl.utils.registry import check_choice
from yacs.config import CfgNode

from .node import leaves

Test = Callable[[Any], bool]


def _numbers(value: Any, test: Test = lambda one: True, types: tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, (list, tuple)) and all(type(one) in types and test(one) for one in value)


AT_LEAST_0: tuple[str, Test] = "0 or more", lambda value: value >= 0
AT_LEAST_1: tuple[str, Test] = "1 or more", lambda value: value >= 1
SHARE: tuple[str, Test] = "0 to 1", lambda value: 0 <= value <= 1
BELOW_1: tuple[str, Test] = "0 or more, and below 1", lambda value: 0 <= value < 1
COUNTS = ("DATALOADER.K_TRANSFORMS", "TRAIN.PRINT_FREQ", "OPTIM.MAX_EPOCH", "INPUT.CUTOUT_LEN")
NOT_NEGATIVE = (
    "DATALOADER.NUM_WORKERS", "DATALOADER.CACHE_MB", "INPUT.CROP_PADDING", "INPUT.CUTOUT_N", "INPUT.GN_STD",
    "INPUT.RANDAUGMENT_N", "INPUT.COLORJITTER_B", "INPUT.COLORJITTER_C", "INPUT.COLORJITTER_S", "OPTIM.LR",
    "OPTIM.WEIGHT_DECAY", "OPTIM.BASE_LR_MULT", "OPTIM.GAMMA", "OPTIM.ADAM_EPS", "OPTIM.WARMUP_CONS_LR",
    "OPTIM.WARMUP_MIN_LR",
)  # fmt: skip
LOADERS = ("TRAIN_X", "TRAIN_U", "TEST")

# key -> (what is allowed, in words; test). A key that a config lacks (another Dassl's) is not checked.
LIMITS: dict[str, tuple[str, Test]] = {
    "SEED": ("a whole number below 2**32", lambda value: value < 2**32),
    "INPUT.SIZE": (
        "two whole numbers from 1 to 10000",
        lambda v: len(v) == 2 and _numbers(v, lambda one: 1 <= one <= 10**4, (int,)),
    ),
    "INPUT.PIXEL_MEAN": ("three numbers", lambda v: len(v) == 3 and _numbers(v, math.isfinite)),
    "INPUT.PIXEL_STD": ("three numbers above 0", lambda v: len(v) == 3 and _numbers(v, lambda one: one > 0)),
    "INPUT.RRCROP_SCALE": (
        "two shares, 0 < smallest <= largest <= 1",
        lambda v: len(v) == 2 and _numbers(v, lambda one: 0 < one <= 1) and v[0] <= v[1],
    ),
    "INPUT.RANDAUGMENT_M": ("0 to 30", lambda value: 0 <= value <= 30),
    "INPUT.COLORJITTER_H": ("0 to 0.5", lambda value: 0 <= value <= 0.5),
    "INPUT.GB_K": ("an odd number from 1", lambda value: value >= 1 and value % 2 == 1),
    "INPUT.EXIF": ("True, False, None", lambda value: value is None or isinstance(value, bool)),
    "OPTIM.STEPSIZE": ("whole numbers", lambda v: len(v) > 0 and _numbers(v, types=(int,))),
    "OPTIM.NEW_LAYERS": ("names", lambda v: all(isinstance(one, str) for one in v)),
    **{key: AT_LEAST_1 for key in COUNTS},
    **{key: AT_LEAST_0 for key in NOT_NEGATIVE},
    **{key: SHARE for key in ("INPUT.RGS_P", "INPUT.GB_P", "OPTIM.RMSPROP_ALPHA", "DATASET.VAL_PERCENT")},
    **{key: BELOW_1 for key in ("OPTIM.MOMENTUM", "OPTIM.ADAM_BETA1", "OPTIM.ADAM_BETA2")},
    **{f"DATALOADER.{name}.BATCH_SIZE": AT_LEAST_1 for name in LOADERS},
    **{f"DATALOADER.{name}.N_INS": AT_LEAST_1 for name in LOADERS[:2]},
}


def _choices() -> dict[str, list[str]]:
    """Return key -> words; imported here, because torchvision takes seconds to import."""
    from dassl.data.samplers import SAMPLERS
    from dassl.data.transforms import AVAI_CHOICES, INTERPOLATION_MODES
    from dassl.evaluation.build import EVALUATOR_REGISTRY
    from dassl.optim.lr_scheduler import AVAI_SCHEDS, AVAI_WARMUPS
    from dassl.optim.optimizer import AVAI_OPTIMS

    return {
        "INPUT.INTERPOLATION": list(INTERPOLATION_MODES),
        "INPUT.TRANSFORMS": AVAI_CHOICES,
        "OPTIM.NAME": AVAI_OPTIMS,
        "OPTIM.LR_SCHEDULER": AVAI_SCHEDS,
        "OPTIM.WARMUP_TYPE": AVAI_WARMUPS,
        "TEST.EVALUATOR": EVALUATOR_REGISTRY.registered_names(),
        "TEST.SPLIT": ["test", "val"],
        "TEST.FINAL_MODEL": ["last_step", "best_val"],
        "TRAIN.COUNT_ITER": ["train_x", "train_u", "smaller_one"],
        **{f"DATALOADER.{name}.SAMPLER": list(SAMPLERS) for name in LOADERS},
    }


def check_values(cfg: CfgNode) -> None:
    """Raise ValueError, with its key, for a value that is not allowed; of plugins' keys only numbers are checked."""
    values = dict(leaves(cfg))
    for key, value in values.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{key} is {value}; allowed: finite numbers")
    for key, (allowed, test) in LIMITS.items():
        if key in values and not test(values[key]):
            raise ValueError(f"{key} is {values[key]!r:.200}; allowed: {allowed}")
    for key, words in _choices().items():
        found = values.get(key, ())
        for word in found if isinstance(found, (list, tuple)) else (found,):
            check_choice(key, word, words)
    if "gaussian_blur" in cfg.INPUT.TRANSFORMS and cfg.INPUT.GB_K // 2 >= min(cfg.INPUT.SIZE):
        raise ValueError(f"INPUT.GB_K is {cfg.INPUT.GB_K}, too large for INPUT.SIZE {cfg.INPUT.SIZE}")
    optim = cfg.OPTIM
    if optim.NAME == "sgd" and optim.SGD_NESTEROV and (not optim.MOMENTUM or optim.SGD_DAMPNING):
        found = f"OPTIM.MOMENTUM is {optim.MOMENTUM} and OPTIM.SGD_DAMPNING {optim.SGD_DAMPNING}"
        raise ValueError(f"OPTIM.SGD_NESTEROV needs a momentum and no dampening, but {found}")

"""What plugins import from ``dassl.engine.trainer`` although it is defined elsewhere."""

from typing import Any

import dassl.data
import dassl.evaluation
import dassl.modeling
import dassl.optim
import dassl.utils

NAMES = {
    dassl.data: ["DataManager"],
    dassl.evaluation: ["build_evaluator"],
    dassl.modeling: ["build_backbone", "build_head"],
    dassl.optim: ["build_lr_scheduler", "build_optimizer"],
    dassl.utils: [
        "AverageMeter", "MetricMeter", "count_num_param", "load_checkpoint", "load_pretrained_weights",
        "mkdir_if_missing", "resume_from_checkpoint", "save_checkpoint", "tolist_if_not",
    ],
}  # fmt: skip


def find(name: str) -> Any:
    """Return what Dassl's ``dassl.engine.trainer`` has under ``name``; raise AttributeError if it has no such name."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # imported late: it takes seconds

        return SummaryWriter
    for module, names in NAMES.items():
        if name in names:
            return getattr(module, name)
    raise AttributeError(f"module 'dassl.engine.trainer' has no attribute {name!r}")

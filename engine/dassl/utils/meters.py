"""Running averages of what a training step reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Union

import torch

__all__ = ["AverageMeter", "MetricMeter"]

Number = Union[float, torch.Tensor]


def _plain(value: Number) -> float:
    return value.item() if isinstance(value, torch.Tensor) else value


class AverageMeter:
    """The last value of a quantity and its average.

    Args:
        ema: average as ``0.9 * average + 0.1 * value`` instead of the plain mean.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: Number, n: int = 1) -> None:
        """Add a value that stands for ``n`` samples."""
        self.val = _plain(val)
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """Averages of several named quantities; printed as ``name value (average)``.

    Args:
        delimiter: stands between two quantities.
    """

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, Number] | None) -> None:
        """Add one value to each named quantity; None adds nothing.

        Raises:
            TypeError: the argument is neither None nor a dictionary.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, Mapping):
            raise TypeError(f"Input to MetricMeter.update() must be a dictionary, but got {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())

"""A learning rate that follows a cosine over training steps, for methods that are published with one."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class StepCosine(LRScheduler):
    """Rate last + (first - last) (1 + cos(pi t / total)) / 2 after t steps, in place of another schedule's warm-up.

    A restored schedule keeps its own ``total``: a run that is resumed to train longer has the rates of the longer
    training.

    Args:
        optimizer: the optimizer whose groups get the rate.
        first: the rate of the first step.
        total: number of training steps.
        last: the rate after all steps.
    """

    def __init__(self, optimizer: Optimizer, first: float, total: int, last: float = 0.0) -> None:
        self.first, self.total, self.last = first, max(total, 1), last
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group after ``last_epoch`` steps."""
        height = (1 + math.cos(math.pi * min(self.last_epoch / self.total, 1))) / 2
        return [self.last + (self.first - self.last) * height for _ in self.optimizer.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the step of a saved state and set its rates."""
        self.last_epoch = state_dict["last_epoch"] - 1
        self._initial_step()  # sets the rates; step() would ask for a step of the optimizer first

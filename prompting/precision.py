"""Numeric precision: the dtypes of the frozen weights and of the computation.

Learned tensors, their gradients and the optimizer's state are always float32.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prompting.ot.checks import check_choice, first_non_finite

PRECISIONS = ("auto", "fp32", "amp", "fp16", "bf16")
# Per precision: dtype of frozen weights, and dtype of autocast (None: no autocast).
_STORED = {"fp32": torch.float32, "amp": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_COMPUTED = {"fp32": None, "amp": torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16}
# Norms stay in float32, as in OpenAI's half-precision weights.
_KEPT = (nn.LayerNorm, _NormBase)

MAX_SKIPPED = 10  # steps in a row that the loss scaler may skip, as it halves its scale from 65,536 at each

_log = logging.getLogger("prompting")
_warned: set[tuple[str, str]] = set()


def find_device(name: str | torch.device) -> torch.device:
    """Return a device that can be used here.

    Raises:
        ValueError: torch does not know it, or it does not exist.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # of any kind, and often of many lines
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"there is no device {str(name)!r} ({reason:.100}); allowed here: {', '.join(known)}"
        ) from None
    return device


def _runs(precision: str, device: torch.device) -> bool:
    """Return whether ``device`` can run ``precision``."""
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return precision != "bf16" or torch.cuda.is_bf16_supported()
    return precision == "bf16" and device.type == "cpu"


@dataclass
class SkippedSteps:
    """Steps that the loss scaler skipped, because its scale made a gradient infinite."""

    total: int = 0
    in_a_row: int = 0


@dataclass(frozen=True)
class Precision:
    """A precision that its device supports; created by :meth:`resolve`.

    Attributes:
        name: ``fp32``, ``amp``, ``fp16`` or ``bf16``.
        device: device of the model.
        scaler: the loss scaler of ``amp`` and ``fp16``, whose activations are float16; None otherwise.
        skipped: number of steps that the loss scaler skipped.
    """

    name: str
    device: torch.device
    scaler: torch.amp.GradScaler | None = field(default=None, compare=False)
    skipped: SkippedSteps = field(default_factory=SkippedSteps, compare=False, repr=False)

    @staticmethod
    def check(prec: str) -> None:
        """Raise ``ValueError`` unless ``prec`` is one of the precisions."""
        check_choice("precision", prec, PRECISIONS)

    @classmethod
    def resolve(cls, prec: str = "auto", device: str | torch.device = "cpu") -> "Precision":
        """Return the precision to use on a device.

        Args:
            prec: ``auto`` (fp16 on CUDA, else fp32), ``fp32``, ``amp`` (float32 weights, float16 arithmetic), ``fp16``
                (float16 weights and arithmetic) or ``bf16`` (bfloat16 weights and arithmetic).
            device: device of the model.

        Returns:
            The requested precision, or ``fp32`` if the device cannot run it, with one warning per process.

        Raises:
            ValueError: if ``prec`` is not one of the five.
        """
        cls.check(prec)
        device = torch.device(device)
        name = prec if prec != "auto" else ("fp16" if device.type == "cuda" else "fp32")
        if not _runs(name, device):
            if (name, device.type) not in _warned:
                _warned.add((name, device.type))
                _log.warning("precision %s does not run on %s: using fp32", name, device.type)
            name = "fp32"
        scaler = torch.amp.GradScaler(device.type) if _COMPUTED[name] is torch.float16 else None
        return cls(name, device, scaler)

    def cast_(self, model: nn.Module) -> nn.Module:
        """Convert a model's frozen weights to this precision, in place.

        Learned tensors (those that require a gradient), norms and scalars (the logit scale) become float32.

        Args:
            model: any module, usually a loaded CLIP.

        Returns:
            The same module.
        """
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    kept = parameter.requires_grad or parameter.numel() == 1 or isinstance(module, _KEPT)
                    parameter.data = parameter.data.to(torch.float32 if kept else _STORED[self.name])
        return model

    def autocast(self) -> AbstractContextManager:
        """Return the context to run the model in: autocast, or a null context for ``fp32``."""
        dtype = _COMPUTED[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def backward_and_step(
        self,
        loss: Tensor,
        optim: torch.optim.Optimizer,
        before_step: Callable[[], object] | None = None,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take one optimizer step on a loss, with the loss scaler if there is one.

        The scaler skips a step whose unscaled gradients are not finite, and lowers its scale.

        Args:
            loss: a scalar; computed under :meth:`autocast`.
            optim: the optimizer of the learned tensors; its gradients are cleared first.
            before_step: called after the backward pass, before gradients are unscaled or used.
            learned: name -> learned tensor, for error messages; None numbers those of ``optim``.

        Raises:
            FloatingPointError: a learned tensor, the loss or, without a scaler, a gradient holds infinity or NaN; or
                the scaler has skipped ``MAX_SKIPPED`` steps in a row. The learned tensors are as before the step.
        """
        optim.zero_grad()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if before_step is not None:
            before_step()
        if self.scaler is not None:
            self.scaler.unscale_(optim)
        if learned is None:
            learned = {str(i): p for i, p in enumerate(p for group in optim.param_groups for p in group["params"])}
        values = [(f"the learned tensor {name}", p) for name, p in learned.items()] + [("the loss", loss)]
        gradients = [(f"the gradient of {name}", p.grad) for name, p in learned.items() if p.grad is not None]
        problem = first_non_finite(values + gradients)
        repeated = ""
        if self.scaler is not None and problem.startswith("the gradient"):
            self.skipped.in_a_row, self.skipped.total = self.skipped.in_a_row + 1, self.skipped.total + 1
            repeated = f" in {MAX_SKIPPED} steps in a row, at loss scale {self.scaler.get_scale():g}"
        else:
            self.skipped.in_a_row = 0
        if problem and not 0 < self.skipped.in_a_row < MAX_SKIPPED:
            raise FloatingPointError(f"{problem} under precision {self.name}{repeated}")
        if self.scaler is None:
            optim.step()
        else:
            self.scaler.step(optim)  # skips the step if a gradient is not finite
            self.scaler.update()
            if problem:  # its gradients serve nothing, and the next check would refuse them
                optim.zero_grad()

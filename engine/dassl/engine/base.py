"""Base of all trainers: named models, optimization steps, TensorBoard, and the order of the hooks."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from dassl.utils import by_product, distributed
from dassl.utils.finite import first_non_finite

from .checkpointing import ModelRegistry, Names

logger = logging.getLogger(__name__)

REMEDY = "try a smaller OPTIM.LR, or full precision (PREC fp32), and look at these images"


class AnomalyError(FloatingPointError):
    """A value that is NaN or infinite, and where it occurred."""


def few_paths(paths: list[Any]) -> str:
    """Return the first four paths and the number of the others as text."""
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return (", ".join(map(str, paths[:4])) or "unknown") + more


class TrainerBase(ModelRegistry):
    """Base of iterative trainers."""

    def __init__(self) -> None:
        super().__init__()
        self._writer: Any = None
        self._bar: Any = None
        self._batch: tuple[Any, ...] = ()
        self._share = 1 / distributed.size()  # fraction of the batch in this process
        self.test_results: dict[str, Any] = {}

    # ---- steps

    def _present(self, table: Mapping[str, Any], names: Names) -> list[Any]:
        return [table[name] for name in self.get_model_names(names) if table[name] is not None]

    def update_lr(self, names: Names = None) -> None:
        """Step the learning-rate schedules; a trainer calls this after the last batch of an epoch."""
        for sched in self._present(self._scheds, names):
            sched.step()

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raise AnomalyError, with the images of the batch, if the loss of any process is not finite."""
        finite = torch.isfinite(loss).all()
        self._stop("" if finite else f"Loss is infinite or NaN! (loss = {loss.detach().flatten().tolist()})")

    def _stop(self, problem: str) -> None:
        """Raise AnomalyError in all processes if one has a problem."""
        problem = distributed.first_message(problem and str(self.locate(problem)))
        if problem:
            raise AnomalyError(problem)

    def locate(self, problem: str | Exception) -> Exception:
        """Return an error for a non-finite value: with epoch, batch, learning rate, images and what to try."""
        if isinstance(problem, AnomalyError):
            return problem
        rates = [group["lr"] for optim in self._optims.values() if optim is not None for group in optim.param_groups]
        where = f"epoch {getattr(self, 'epoch', 0) + 1}, batch {getattr(self, 'batch_idx', 0) + 1}"
        where += f", learning rate {rates[0]:.4g}" if rates else ""
        paths = [p for batch in self._batch if isinstance(batch, Mapping) for p in batch.get("impath", [])]
        return AnomalyError(f"{problem} at {where}; images: {few_paths(paths)}; {REMEDY}")

    def _check_step(self, names: Names = None, **losses: torch.Tensor) -> None:
        """Raise AnomalyError if a learned tensor, a loss or a gradient of any process is not finite."""
        params = [item for name in self.get_model_names(names) for item in self._models[name].named_parameters()]
        params = [(name, p) for name, p in params if p.requires_grad]
        problem = first_non_finite(
            [(f"the learned tensor {name}", p) for name, p in params]
            + [(name, loss) for name, loss in losses.items()]
            + [(f"the gradient of {name}", p.grad) for name, p in params if p.grad is not None]
        )
        if problem.startswith(tuple(losses)):
            problem = f"Loss is infinite or NaN! ({problem})"
        shared = problem.startswith("the gradient")  # the sum over processes; a bad loss is known to one of them
        self._stop("" if shared else problem)
        if shared:
            raise self.locate(problem)

    def model_zero_grad(self, names: Names = None) -> None:
        """Clear the gradients of models."""
        for optim in self._present(self._optims, names):
            optim.zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Check the loss and compute its gradients."""
        self.detect_anomaly(loss)
        loss.backward()

    def share_gradients(self, names: Names = None) -> None:
        """Sum the gradients of all processes that share a batch; call between backward pass and step."""
        optims = self._present(self._optims, names)
        params = [p for optim in optims for group in optim.param_groups for p in group["params"]]
        distributed.weighted_sum_([p.grad for p in dict.fromkeys(params) if p.grad is not None], self._share)

    def sum_shares(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the processes that share a batch; every process must call it."""
        return distributed.all_reduce_sum(tensor)

    def model_update(self, names: Names = None) -> None:
        """Step the optimizers of models."""
        for optim in self._present(self._optims, names):
            optim.step()

    def model_backward_and_update(self, loss: torch.Tensor, names: Names = None) -> None:
        """Clear the gradients, compute new ones and step.

        Raises:
            FloatingPointError: the loss, a learned tensor or a gradient holds infinity or NaN; nothing was changed.
        """
        self.model_zero_grad(names)
        loss.backward()
        self.share_gradients(names)
        self._check_step(names, loss=loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: Names = None
    ) -> None:
        r"""Step along the gradient a of ``loss_a`` without its component against the gradient b of ``loss_b``.

        .. math:: a - \lambda \frac{\langle a, b\rangle}{\lVert b\rVert^2} b \quad \text{where } \langle a, b\rangle < 0

        for each parameter tensor (Zhu et al. 2023, ProGrad, eq. 5); ``lambda_`` in [0, 1] is the fraction to remove.

        Raises:
            FloatingPointError: a loss, a learned tensor or a gradient holds infinity or NaN; nothing was changed.
        """
        names = self.get_model_names(names)
        params = [p for name in names for p in self._models[name].parameters() if p.requires_grad]
        general = torch.autograd.grad(loss_b, params, retain_graph=True, allow_unused=True)
        distributed.weighted_sum_([b for b in general if b is not None], self._share)
        self.model_zero_grad(names)
        loss_a.backward()
        self.share_gradients(names)
        for param, b in zip(params, general):
            if param.grad is None or b is None:
                continue
            dot = (param.grad * b).sum()
            if dot < 0:  # implies that b is not zero
                param.grad = param.grad - lambda_ * dot / b.square().sum() * b
        self._check_step(names, loss_a=loss_a, loss_b=loss_b)
        self.model_update(names)

    # ---- TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Open a TensorBoard writer, unless one is open."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # imported late: it takes seconds

            logger.info("Initialize tensorboard (log_dir=%s)", log_dir)
            with by_product(f"TensorBoard's events in {log_dir}"):
                self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Close the TensorBoard writer, if one is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with by_product("TensorBoard's last events"):
                writer.close()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a value to TensorBoard if a writer is open; one that fails, as on a full disk, is given up."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with by_product("TensorBoard's events from here on"):
                writer.add_scalar(tag, scalar_value, global_step)
                self._writer = writer

    # ---- hooks

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Train the epochs ``start_epoch`` to ``max_epoch - 1`` and call the hooks below in order."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        try:
            self.before_train()
            for epoch in range(self.start_epoch, self.max_epoch):
                self.epoch = epoch
                distributed.sync_rng()
                self.before_epoch()
                self.run_epoch()
                self._check_step()  # the last batch's
                self.after_epoch()
            self._close_bar()
            self.after_train()
        finally:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def before_train(self) -> None:
        """Hook; may change ``self.start_epoch``."""

    def after_train(self) -> None:
        """Hook."""

    def before_epoch(self) -> None:
        """Hook."""

    def after_epoch(self) -> None:
        """Hook."""

    def run_epoch(self) -> None:
        """Train for an epoch."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> Any:
        """Do one training step; return the values to log by name."""
        raise NotImplementedError

"""Base of all trainers: named models, optimization steps, TensorBoard, and the order of the hooks."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from dassl.utils import by_product, distributed

from .checkpointing import ModelRegistry, Names

logger = logging.getLogger(__name__)


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
        """Raise FloatingPointError, with the images of the batch, if the loss of any process is not finite."""
        finite = torch.isfinite(loss).all()
        problem = distributed.first_message("" if finite else self._anomaly("loss", loss.detach().flatten().tolist()))
        if problem:
            raise FloatingPointError(problem)

    def _anomaly(self, name: str, value: Any) -> str:
        paths = [p for batch in self._batch if isinstance(batch, Mapping) for p in batch.get("impath", [])]
        shown = ", ".join(map(str, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        where = f"epoch {getattr(self, 'epoch', 0) + 1}, batch {getattr(self, 'batch_idx', 0) + 1}"
        return f"Loss is infinite or NaN! ({name} = {value} at {where}; images: {shown or 'unknown'})"

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
            FloatingPointError: the loss is infinite or NaN.
        """
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.share_gradients(names)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: Names = None
    ) -> None:
        r"""Step along the gradient a of ``loss_a`` without its component against the gradient b of ``loss_b``.

        .. math:: a - \lambda \frac{\langle a, b\rangle}{\lVert b\rVert^2} b \quad \text{where } \langle a, b\rangle < 0

        for each parameter tensor (Zhu et al. 2023, ProGrad, eq. 5).

        Args:
            loss_a: loss to minimise (scalar).
            loss_b: loss that should not increase (scalar).
            lambda_: fraction of the conflicting component to remove, in [0, 1].
            names: models to update.

        Raises:
            FloatingPointError: a loss is infinite or NaN.
        """
        names = self.get_model_names(names)
        params = [p for name in names for p in self._models[name].parameters() if p.requires_grad]
        for loss in (loss_a, loss_b):
            self.detect_anomaly(loss)
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

"""Base trainer of all methods: builds the prompted CLIP, trains its learned tensors, evaluates and records."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor, nn
from yacs.config import CfgNode

from prompting.checkpoint import learned_state, load_learned, read_state_dict
from prompting.clip import input_size, load_clip
from prompting.clip.classnames import check_features, check_tokens
from prompting.clip.templates import template_for
from prompting.methods.base import PromptedCLIP
from prompting.precision import Precision
from prompting.run_folder import checkpoint_path, read_checkpoint
from trainers.record import runs
from trainers.record.files import lock_folder
from trainers.record.log import logger
from trainers.record.predictions import RecordingEvaluator
from trainers.record.results import record_result
from trainers.record.transport import record_transport
from trainers.settings import MethodSettings, add_nodes
from trainers.speed import configure_speed

__all__ = ["METHODS", "PromptTrainer", "add_nodes", "register"]

METHODS: list[type["PromptTrainer"]] = []
"""The registered trainers; ``register`` fills it."""
Batch = dict[str, Any]
"""Images, labels and paths, as Dassl's data loader gives them."""


class PromptTrainer(MethodSettings, TrainerX):
    """Trains the learned tensors of a prompted CLIP by its ``training_loss``.

    Class attributes of a method:
        model_class: model class (``prompting.methods``).
        node: config node under ``cfg.TRAINER``, whose keys are the model's options in capitals and ``PREC``. Methods
            may share a node.
        other_keys: the full names of keys that are published outside the node, such as {"LAMBDA": "LOSS.LAMBDA"}.
        default_precision: default of ``PREC``.
        model_name: folder of its checkpoints.
        saved_part: submodule whose state is saved, such as ``prompt_learner`` in released CoOp checkpoints; "" saves
            the whole model.
        unused: names of modules and tensors in released checkpoints that no computation reads.
        eps: eps of Adam and AdamW; None is that of torch.
        steps_schedule: whether the learning rate changes after every step, and not after every epoch.
    """

    model_name: ClassVar[str]
    saved_part: ClassVar[str] = ""
    unused: ClassVar[tuple[str, ...]] = ()
    eps: ClassVar[float | None] = None
    steps_schedule: ClassVar[bool] = False
    evaluator: RecordingEvaluator

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.evaluator = RecordingEvaluator(self.evaluator)

    @classmethod
    def build_clip(
        cls, cfg: CfgNode, classnames: Sequence[str], clip_model: nn.Module, **context: Any
    ) -> PromptedCLIP[Any]:
        """Return the method's model on ``clip_model`` for K class names; ``context`` as for ``PromptedCLIP``."""
        data = {"dataset": cfg.DATASET.NAME, "template": cfg.DATASET.get("TEMPLATE", "")}
        options = cls.options(cfg)
        with cls.keys_in_errors():
            return cls.model_class(clip_model, classnames, options, **data, **context)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check the method's settings before data and CLIP are loaded."""
        Precision.check(self.settings(cfg)["PREC"])
        self.options(cfg)

    def build_model(self) -> None:
        """Load CLIP, build the model on it, and build optimizer and schedule of the learned tensors."""
        cfg = self.cfg
        self.precision = Precision.resolve(self.settings(cfg)["PREC"], self.device)
        names, custom = self.dm.dataset.classnames, getattr(self.dm.dataset, "root_is_data", False)
        if custom and len(names) == 1:
            part = f"DATASET.SUBSAMPLE_CLASSES {cfg.DATASET.SUBSAMPLE_CLASSES}"
            raise ValueError(f"{names[0]!r:.100} is the only class ({part}), and would get 100%: give at least two")
        check_tokens(names, refuse=custom)
        logger.info(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
        # Moved before the model is built: a teacher's features are computed on the device, in float32.
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME).to(self.device)
        size, expected = tuple(cfg.INPUT.SIZE), tuple(input_size(clip_model))
        if size != expected:
            raise ValueError(
                f"INPUT.SIZE is {size}, the backbone {cfg.MODEL.BACKBONE.NAME} takes {expected}: set it to that"
            )
        template = cfg.DATASET.get("TEMPLATE", "") or template_for(cfg.DATASET.NAME)
        check_features(clip_model, names, template, refuse=custom)
        # Only this project's engine splits a batch over processes.
        reduce = getattr(self, "sum_shares", None)
        self.model = self.build_clip(cfg, names, clip_model, all_reduce_sum=reduce)
        self.precision.cast_(self.model.clip)
        self.model.to(self.device)
        self.memory_plan = configure_speed(self.model, cfg, self.device)
        self.before_optimizer()
        learned = learned_state(self.model)
        logger.info(
            f"Learning {sum(tensor.numel() for tensor in learned.values()):,} parameters: {', '.join(sorted(learned))}"
        )
        saved = self.model.get_submodule(self.saved_part)
        if start := self.start_file():
            logger.info(f"Starting from {start}")
            load_learned(saved, read_state_dict(start), start, released_names(saved), self.unused)
        if learned:
            self.optim = build_optimizer(list(learned.values()), cfg.OPTIM)
            for group in self.optim.param_groups:
                if self.eps and "eps" in group:  # SGD has none
                    group["eps"] = self.eps
            self.sched = self.build_schedule()
            self.register_model(self.model_name, saved, self.optim, self.sched)
        self.scaler = self.precision.scaler

    def before_optimizer(self) -> None:
        """Hook that runs when the model is on its device, and before optimizer and schedule are built."""

    def build_schedule(self) -> Any:
        """Return the schedule of the learning rate: that of ``OPTIM``."""
        return build_lr_scheduler(self.optim, self.cfg.OPTIM)

    def start_file(self) -> str:
        """Return the checkpoint whose learned tensors training starts from; "" for none."""
        return self.cfg.MODEL.INIT_WEIGHTS

    def train(self) -> None:
        """Train and evaluate; a method that learns nothing is evaluated only."""
        if self.get_model_names():
            super().train()
        else:
            self.test()

    def forward_backward(self, batch: Batch) -> dict[str, float]:
        """Take one optimizer step on ``batch`` and return loss and accuracy."""
        inputs = self.parse_batch_train(batch)
        with self.precision.autocast():
            loss, logits = self.model.training_loss(*inputs)
        share = getattr(self, "share_gradients", None)
        self.precision.backward_and_step(loss, self.optim, share, learned_state(self.model))
        if self.steps_schedule or self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, inputs[1])[0].item()}

    def parse_batch_train(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the images (B, 3, H, W) and labels (B,) of ``batch`` on the device: the arguments of the loss."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def parse_batch_test(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the images and labels of ``batch`` on the device; its image paths go to the recording evaluator."""
        self.evaluator.add_paths(batch.get("impath", []))
        return super().parse_batch_test(batch)

    def model_inference(self, images: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        with self.precision.autocast():
            return self.model(images)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the learned tensors of a run.

        Args:
            directory: the run's output folder; "" keeps the initial values.
            epoch: the epoch to load; None takes the best epoch on validation if it was kept, else the last one.

        Raises:
            FileNotFoundError: there is no such checkpoint; the message names those that exist.
        """
        if not directory:
            logger.info("No model folder given: evaluating the model as initialised")
            return
        for name in self.get_model_names():
            path = checkpoint_path(Path(directory) / name, epoch)
            logger.info(f"Loading weights to {name} from {path}")
            part = self._models[name]
            load_learned(part, read_checkpoint(path), str(path), released_names(part), self.unused)
            self.loaded_from = str(path)

    def training_state(self) -> dict[str, Any]:
        """Return the engine's training state with a record of the run; a subclass may add to it."""
        return {**super().training_state(), "run": runs.checkpoint_record(self)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state; raise ``ValueError`` if another run wrote it."""
        if "run" in state:
            runs.check_checkpoint(self, state["run"])
        super().load_training_state(state)

    def before_train(self) -> None:
        """Start or resume training; raise ``ValueError`` if the folder holds a run with other settings."""
        lock_folder(self.output_dir)
        runs.check_same_run(self)
        super().before_train()
        self.train_seconds = runs.seconds_before(self)

    def run_epoch(self) -> None:
        """Run one epoch and add its time to the training time."""
        start = time.perf_counter()
        super().run_epoch()
        self.train_seconds += time.perf_counter() - start
        runs.record_epoch(self)
        record_transport(self, "train")
        if self.precision.skipped.total:
            logger.info(f"The loss scaler has skipped {self.precision.skipped.total} steps")

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split`` (default ``TEST.SPLIT``), record the result, and return the accuracy in percent."""
        lock_folder(self.output_dir)
        split = split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is None:
            logger.warning("There are no validation images: evaluating on the test images instead")
            split = "test"
        start = time.perf_counter()
        accuracy = super().test(split)
        seconds = time.perf_counter() - start
        # With several processes each parses its own test batches; the engine provides the paths of all images.
        self.evaluator.paths = getattr(self, "evaluated_paths", []) or self.evaluator.paths
        if not self.get_model_names():
            runs.write_run(self)
        record_transport(self, split)
        record_result(self, split, accuracy, seconds, self.evaluator)
        return accuracy


TrainerT = TypeVar("TrainerT", bound=type[PromptTrainer])


def register(trainer: TrainerT) -> TrainerT:
    """Register a method's trainer with Dassl and list it in ``METHODS``."""
    TRAINER_REGISTRY.register()(trainer)
    METHODS.append(trainer)
    return trainer


def released_names(part: nn.Module) -> dict[str, str] | None:
    """Return the released names of a model's learned tensors; None for a submodule, which has the released names."""
    return part.released_names if isinstance(part, PromptedCLIP) else None

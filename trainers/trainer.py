"""Base trainer of all methods: builds the prompted CLIP, trains its learned tensors, evaluates and records."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from prompting.methods.base import Options, PromptedCLIP
from prompting.precision import Precision
from prompting.run_folder import checkpoint_path
from trainers.record.log import logger
from trainers.record.predictions import RecordingEvaluator
from trainers.record.results import record_result
from trainers.record.runs import check_same_run, record_epoch, seconds_before, write_run
from trainers.speed import configure_speed

METHODS: list[type["PromptTrainer"]] = []
"""The registered trainers; ``register`` fills it."""
Batch = dict[str, Any]
"""Images, labels and paths, as Dassl's data loader gives them."""


class PromptTrainer(TrainerX):
    """Trains the learned tensors of a prompted CLIP by its ``training_loss``.

    Class attributes of a method:
        model_class: model class (``prompting.methods``).
        node: config node under ``cfg.TRAINER``, whose keys are the model's options in capitals and ``PREC``.
        default_precision: default of ``PREC``.
        model_name: folder of its checkpoints.
        saved_part: submodule whose state is saved, such as ``prompt_learner`` in released CoOp checkpoints; "" saves
            the whole model.
    """

    model_class: ClassVar[type[PromptedCLIP[Any]]]
    node: ClassVar[str]
    default_precision: ClassVar[str] = "fp16"
    model_name: ClassVar[str]
    saved_part: ClassVar[str] = ""
    evaluator: RecordingEvaluator

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.evaluator = RecordingEvaluator(self.evaluator)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the keys of the method's config node with their defaults."""
        options = cls.model_class.options_class.defaults()
        return {**{name.upper(): value for name, value in options.items()}, "PREC": cls.default_precision}

    @classmethod
    def options(cls, cfg: CfgNode) -> Options:
        """Return the model's options from the method's config node.

        Raises:
            ValueError: a value that is not allowed; the message names its key.
        """
        node, options_class = cfg.TRAINER[cls.node], cls.model_class.options_class
        with cls.keys_in_errors():
            return options_class(**{name: node[name.upper()] for name in options_class.defaults()})

    @classmethod
    @contextmanager
    def keys_in_errors(cls) -> Iterator[None]:
        """Replace option names by config keys in the model's errors: ``n_ctx`` becomes TRAINER.<NODE>.N_CTX."""
        names = list(cls.model_class.options_class.defaults())
        try:
            yield
        except ValueError as error:
            unmistakable = "|".join(name for name in names if "_" in name) or names[0]
            pattern = rf"\b({unmistakable})\b|\b({'|'.join(names)})\b(?= is | to )"
            message = re.sub(pattern, lambda match: match[0].upper(), str(error))
            starts_with_key = str(error).split(" ", 1)[0] in names
            raise ValueError(f"TRAINER.{cls.node}.{message}" if starts_with_key else message) from error

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
        Precision.check(cfg.TRAINER[self.node].PREC)
        self.options(cfg)

    def build_model(self) -> None:
        """Load CLIP, build the model on it, and build optimizer and schedule of the learned tensors."""
        cfg = self.cfg
        self.precision = Precision.resolve(cfg.TRAINER[self.node].PREC, self.device)
        logger.info(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        size, expected = tuple(cfg.INPUT.SIZE), tuple(input_size(clip_model))
        if size != expected:
            raise ValueError(
                f"INPUT.SIZE is {size}, the backbone {cfg.MODEL.BACKBONE.NAME} takes {expected}: set it to that"
            )
        # Only this project's engine splits a batch over processes.
        reduce = getattr(self, "sum_shares", None)
        self.model = self.build_clip(cfg, self.dm.dataset.classnames, clip_model, all_reduce_sum=reduce)
        self.precision.cast_(self.model.clip)
        self.model.to(self.device)
        self.memory_plan = configure_speed(self.model, cfg, self.device)
        learned = learned_state(self.model)
        logger.info(
            f"Learning {sum(tensor.numel() for tensor in learned.values()):,} parameters: {', '.join(sorted(learned))}"
        )
        saved = self.model.get_submodule(self.saved_part)
        if start := self.start_file():
            logger.info(f"Starting from {start}")
            load_learned(saved, read_state_dict(start), start, released_names(saved))
        if learned:
            self.optim = build_optimizer(list(learned.values()), cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
            self.register_model(self.model_name, saved, self.optim, self.sched)
        self.scaler = self.precision.scaler

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
        images, labels = self.parse_batch_train(batch)
        with self.precision.autocast():
            loss, logits = self.model.training_loss(images, labels)
        self.detect_anomaly(loss)
        self.precision.backward_and_step(loss, self.optim, getattr(self, "share_gradients", None))
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, labels)[0].item()}

    def parse_batch_train(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, H, W) and labels (B,) of ``batch`` on the device."""
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
            epoch: the epoch to load; None takes the best one on validation if that was kept, else the last one.

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
            load_learned(part, read_state_dict(path), str(path), released_names(part))
            self.loaded_from = str(path)

    def before_train(self) -> None:
        """Start or resume training; raise ``ValueError`` if the folder holds a run with other settings."""
        check_same_run(self)
        super().before_train()
        self.train_seconds = seconds_before(self)

    def run_epoch(self) -> None:
        """Run one epoch and add its time to the training time."""
        start = time.perf_counter()
        super().run_epoch()
        self.train_seconds += time.perf_counter() - start
        record_epoch(self)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split`` (default ``TEST.SPLIT``), record the result, and return the accuracy in percent."""
        split = split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is None:
            logger.warning("There are no validation images: evaluating on the test images instead")
            split = "test"
        start = time.perf_counter()
        accuracy = super().test(split)
        seconds = time.perf_counter() - start
        # A process parses its part of the images only; the engine then provides the paths of all.
        self.evaluator.paths = getattr(self, "evaluated_paths", []) or self.evaluator.paths
        if not self.get_model_names():
            write_run(self)
        record_result(self, split, accuracy, seconds, self.evaluator)
        return accuracy


TrainerT = TypeVar("TrainerT", bound=type[PromptTrainer])


def register(trainer: TrainerT) -> TrainerT:
    """Register a method's trainer with Dassl and list it in ``METHODS``."""
    TRAINER_REGISTRY.register()(trainer)
    METHODS.append(trainer)
    return trainer


def add_nodes(cfg: CfgNode, *methods: type[PromptTrainer]) -> None:
    """Add the config nodes of ``methods``, with their defaults, to ``cfg.TRAINER``."""
    for method in methods:
        cfg.TRAINER[method.node] = CfgNode(method.defaults())


def released_names(part: nn.Module) -> dict[str, str] | None:
    """Return the released names of a model's learned tensors; None for a submodule, which needs none."""
    return part.released_names if isinstance(part, PromptedCLIP) else None

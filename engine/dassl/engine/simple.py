"""A trainer of classifiers: builds data, model and evaluator, trains, evaluates, saves."""

import datetime
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.modeling import SimpleNet
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import check_availability, count_num_param, distributed, load_pretrained_weights, progress, write_json
from dassl.utils.checkpoint import BEST_NAME, LAST_NAME, drop_temporary
from yacs.config import CfgNode

from .base import REMEDY, AnomalyError, TrainerBase, few_paths
from .checkpointing import Names

logger = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """A trainer built from a config; subclasses define ``run_epoch``."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        distributed.init(cfg.USE_CUDA)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        distributed.sync_rng()
        with distributed.main_first():
            self.build_data_loader()
        distributed.sync_rng()  # a process that read the main process's draw has used fewer random numbers
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = float("-inf")
        self.evaluated_paths: list[str] = []  # images of the last evaluation, in the order of evaluation

    def check_cfg(self, cfg: CfgNode) -> None:
        """Hook: raise an error for settings that the trainer does not support."""

    def build_data_loader(self) -> None:
        """Build the loaders; an override sets the same attributes (except ``dm``)."""
        dm = self.dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname

    def build_model(self) -> None:
        """Build and register a :class:`SimpleNet`; most trainers override this."""
        cfg = self.cfg
        logger.info("Building model")
        self.model = SimpleNet(cfg, cfg.MODEL, self.num_classes)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        logger.info(f"# params: {count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("model", self.model, self.optim, self.sched)

    # ---- training

    def training_state(self) -> dict[str, Any]:
        """Return the state of :class:`TrainerBase`, the best validation score and the class names."""
        return {**super().training_state(), "best_result": float(self.best_result), "classnames": self._class_names()}

    def _class_names(self) -> list[str]:
        return [self.lab2cname[label] for label in sorted(self.lab2cname)]

    def load_training_state(self, state: Any) -> None:
        """Restore a saved state; raise ValueError if it is of a run on other classes."""
        names, saved = self._class_names(), state.get("classnames")
        if saved is not None and saved != names:
            raise ValueError(f"Cannot resume: the run was on the classes {_few(saved)}, not {_few(names)}")
        if state.get("best_result") is not None:
            self.best_result = state["best_result"]
        super().load_training_state(state)

    def train(self) -> None:  # type: ignore[override]
        """Train up to ``OPTIM.MAX_EPOCH``, then test."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resume from a checkpoint in the output folder, or else in ``RESUME``; open TensorBoard.

        A folder ``RESUME`` without checkpoint raises FileNotFoundError.
        """
        resume = self.cfg.RESUME
        if resume and self.get_model_names() and not self.has_checkpoint(resume):
            wanted = ", ".join(self.get_model_names())
            raise FileNotFoundError(f'No checkpoint to resume from in "{resume}" (it needs the folders {wanted})')
        # a repeated command resumes from its output folder, not from the run that it first resumed from
        self.resumed_from = resume if resume and not self.has_checkpoint(self.output_dir) else self.output_dir
        self.start_epoch = self.resume_model_if_exist(self.resumed_from)
        if distributed.is_main():
            for name in self.get_model_names():
                drop_temporary(os.path.join(self.output_dir, name))
            self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def after_epoch(self) -> None:
        """Validate if ``TEST.FINAL_MODEL`` is best_val; save.

        An epoch that ``TRAIN.CHECKPOINT_FREQ`` does not keep is saved to ``model-last.pth.tar`` up to the next one, so
        that an interrupted run resumes from its last whole epoch.
        """
        cfg, done = self.cfg, self.epoch + 1
        if cfg.TEST.FINAL_MODEL == "best_val" and not cfg.TEST.NO_TEST:
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST_NAME)
        frequency = cfg.TRAIN.CHECKPOINT_FREQ
        kept = done == self.max_epoch or (frequency > 0 and done % frequency == 0)
        self.save_model(self.epoch, self.output_dir, model_name="" if kept else LAST_NAME)

    def after_train(self) -> None:
        """Test the last or the best model, and close TensorBoard."""
        # parsers of result logs look for one of these two lines
        logger.info("Finish training")
        logger.info("Finished training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                logger.info("Deploy the model with the best val performance")
                self.load_model(self._best_directory())
            else:
                logger.info("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.time() - self.time_start))
        logger.info(f"Elapsed: {elapsed}")
        self.close_writer()

    def _best_directory(self) -> str:
        # after resuming another run without a better epoch since, the best model is still in its folder
        best = [os.path.join(self.output_dir, name, BEST_NAME) for name in self.get_model_names()]
        return self.output_dir if not self.cfg.RESUME or all(map(os.path.isfile, best)) else self.cfg.RESUME

    # ---- evaluation

    def test(self, split: str | None = None) -> float:
        """Evaluate on ``test``, or on ``val`` (the test split if there are no validation images); None: ``TEST.SPLIT``.

        Returns:
            The first result, the accuracy in percent; ``self.test_results[split]`` has all results.

        Raises:
            ValueError: unknown split.
        """
        return self._evaluate(split)

    def output_test(self, split: str | None = None) -> float:
        """Evaluate as :meth:`test`, and write path -> scores (``predict``) and label (``gt``) to ``output.json``."""
        rows: dict[str, Any] = {}
        result = self._evaluate(split, rows)
        if distributed.is_main():
            write_json(rows, os.path.join(self.output_dir, "output.json"))
        return result

    @torch.no_grad()
    def _evaluate(self, split: str | None, rows: dict[str, Any] | None = None) -> float:
        split = self.cfg.TEST.SPLIT if split is None else split
        check_availability(split, ["val", "test"])
        self.set_model_mode("eval")
        self.evaluator.reset()
        if self.val_loader is None:
            split = "test"
        loader = self.val_loader if split == "val" else self.test_loader
        logger.info(f"Evaluate on the *{split}* set")
        self.evaluated_paths = []
        scored = self._score(progress(loader, desc=f"evaluate {split}", leave=False), split)
        for paths, output, label in distributed.gather_in_order(scored, len(loader)):
            self._check_scores(output if isinstance(output, torch.Tensor) else output[0], paths, split)
            self.evaluator.process(output, label)
            self.evaluated_paths += paths
            if rows is not None:
                found = zip(paths, output.tolist(), label.tolist())
                rows.update({path: {"predict": scores, "gt": gt} for path, scores, gt in found})
        results = distributed.broadcast(self.evaluator.evaluate() if distributed.is_main() else None)
        self.test_results[split] = results
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def _score(self, batches: Iterable[Any], split: str) -> Iterator[tuple[list[str], Any, torch.Tensor]]:
        for batch in batches:
            images, label = self.parse_batch_test(batch)
            paths = batch.get("impath", []) if isinstance(batch, Mapping) else []
            try:
                yield paths, self.model_inference(images), label
            except FloatingPointError as error:
                raise AnomalyError(f"{error} in the evaluation on {split}; images: {few_paths(paths)}") from error

    def _check_scores(self, scores: torch.Tensor, paths: list[str], split: str) -> None:
        """Raise AnomalyError if a score is NaN or infinite: its class would be chosen without meaning."""
        bad = ~scores.isfinite().flatten(1).all(1)
        if bad.any():
            named = [path for path, wrong in zip(paths, bad.tolist()) if wrong]
            raise AnomalyError(
                f"{int(bad.sum())} of {len(bad)} images of a batch have NaN or infinite scores in the evaluation on "
                f"{split}; images: {few_paths(named)}; {REMEDY}, or load an earlier epoch"
            )

    def model_inference(self, input: Any) -> Any:
        """Return scores (B, K) for images (B, 3, H, W)."""
        return self.model(input)

    def parse_batch_test(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and labels of a test batch on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: Names = None) -> float:
        """Return the learning rate of the first parameter group of the first model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} ({len(names)})"

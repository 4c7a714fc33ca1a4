"""What every method shares: the prompted CLIP it trains, and the trainer around it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor, nn
from yacs.config import CfgNode

from prompting.checkpoint import learned_state, load_learned, read_state_dict
from prompting.clip import ClipShape, PromptTokens, TextEncoder, VisionEncoder, input_size, load_clip, word_vectors
from prompting.heads import cosine_logits
from prompting.learners import Prompts
from prompting.ot import HierarchicalOT
from prompting.precision import Precision
from trainers.log import logger
from trainers.predictions import recorded
from trainers.results import check_same_run, record_epoch, record_result, seconds_before
from trainers.speed import configure_speed

T = TypeVar("T")


class PromptedCLIP(nn.Module):
    """A frozen CLIP with learned prompts: the base of every method's ``CustomCLIP``.

    A method says ``node``, its config node under ``cfg.TRAINER``, and makes what it learns in ``build``. Its state dict
    is the learned tensors only, so that a checkpoint neither holds frozen weights nor class names, and loading one also
    takes whole-model checkpoints of the CoOp family.

    Args:
        cfg: a config with the method's node.
        classnames: K class names.
        clip_model: an open_clip model, or a model object of OpenAI's ``clip`` package.
    """

    node: ClassVar[str]
    own_parts: ClassVar[bool] = False  # whether ``forward`` divides the text side by itself
    prompt_learner: Callable[[], Prompts]
    tokens: PromptTokens
    transports_patches: bool = False  # whether the transport's prompt level is over an image's O patches
    constant_tokens: bool = True  # no gradient goes through what the towers give beside CLS and EOS

    def __init__(self, cfg: Any, classnames: Sequence[str], clip_model: nn.Module) -> None:
        super().__init__()
        self.clip = load_clip(clip_model)
        self.shape = ClipShape.of(self.clip)
        self.text_encoder = TextEncoder(self.clip)
        self.image_encoder = VisionEncoder(self.clip)
        self.names: dict[str, str] = {}  # own names of learned tensors -> those of released checkpoints
        self.dataset = cfg.DATASET.NAME
        self.template = cfg.DATASET.get("TEMPLATE", "")
        self._cache: tuple[Any, Any] = (None, None)
        self.build(self.settings(cfg), classnames)

    @classmethod
    def settings(cls, cfg: Any) -> Any:
        """Return the method's own config node."""
        return cfg.TRAINER[cls.node]

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        """Make what the method learns and what it needs besides, from its config node and K class names."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> Tensor:
        """1 / tau, CLIP's learned inverse temperature."""
        return self.clip.logit_scale.exp()

    def training_text(self) -> list[tuple[PromptTokens, Prompts]]:
        """Return what a training step runs through the text tower: the prompts of K classes, then what is beside them.

        Memory is predicted from it (``trainers.speed``).
        """
        return [(self.tokens, self.prompt_learner())]

    def train(self, mode: bool = True) -> PromptedCLIP:
        """Set the mode of the learned part; the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss to train with, cross entropy (Eq. 8), and the (B, K) logits of ``images`` (B, 3, H, W)."""
        logits = self(images)
        return F.cross_entropy(logits, labels), logits

    def cached(self, compute: Callable[[], T]) -> T:
        """Return ``compute()``; in evaluation compute once and keep it until a learned tensor changes."""
        if torch.is_grad_enabled():
            self._cache = (None, None)  # not to lie beside the next epoch, nor to outlive a step that hides its writes
            return compute()
        key = [(tensor.data_ptr(), tensor._version) for tensor in self.parameters()]
        if self._cache[0] != key:
            self._cache = (key, compute())
        return self._cache[1]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the learned tensors under the names of released checkpoints."""
        return {name: tensor.detach() for name, tensor in learned_state(self, self.names).items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:
        """Copy the learned tensors from ``state_dict`` (see ``prompting.checkpoint.load_learned``)."""
        load_learned(self, state_dict, names=self.names)


class CosineCLIP(PromptedCLIP):
    """A prompted CLIP with one feature an image and one a class, compared by their cosine.

    A method sets ``prompt_learner``, which returns ``Prompts``, and ``tokens``. Several sentences a class (a leading
    axis N of the tokens) are averaged after normalisation.
    """

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return (K, D) features of the classes."""
        text = self.text_encoder(self.tokens, prompts.text, prompts.deep_text)
        return F.normalize(text.prompt, dim=-1).mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits, scale * cos(image, class), for ``images`` (B, 3, H, W)."""
        prompts = self.prompt_learner()
        text = self.cached(lambda: self.class_features(prompts))
        image = self.image_encoder(images, prompts.visual, prompts.deep_visual)
        return cosine_logits(image.prompt[:, 0], text, self.logit_scale)


class PromptTrainer(TrainerX):
    """Trains the learned tensors of a ``CustomCLIP`` by its ``training_loss``.

    A method says: ``model_class``, its ``CustomCLIP``, whose ``node`` is the method's; ``defaults``, that node's keys;
    ``model_name``, the folder its checkpoints go to; ``saved_part``, the part of the model whose state is saved where
    that is not the whole (released checkpoints of CoOp hold the prompt learner's).
    """

    node: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]
    model_name: ClassVar[str]
    model_class: ClassVar[type[PromptedCLIP]]
    saved_part: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "model_class"):
            cls.node = cls.model_class.node

    @property
    def settings(self) -> Any:
        """The method's own config node."""
        return self.cfg.TRAINER[self.node]

    def check_cfg(self, cfg: Any) -> None:
        """Refuse a precision that does not exist before anything is loaded."""
        Precision.check(cfg.TRAINER[self.node].PREC)

    def build_model(self) -> None:
        """Load CLIP, put the method on it, and build optimizer and schedule over the learned tensors."""
        cfg, classnames = self.cfg, self.dm.dataset.classnames
        self.precision = Precision.resolve(self.settings.PREC, self.device)
        logger.info(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        check_input_size(cfg.INPUT.SIZE, clip_model, cfg.MODEL.BACKBONE.NAME)
        self.model = self.model_class(cfg, classnames, clip_model)
        if isinstance(head := getattr(self.model, "head", None), HierarchicalOT):
            head.pooled = getattr(self, "sum_shares", None)  # of this project's engine, where processes share a batch
        self.precision.cast_(self.model.clip)
        self.model.to(self.device)
        configure_speed(self.model, cfg, self.device)
        learned = learned_state(self.model)
        logger.info(
            f"Learning {sum(tensor.numel() for tensor in learned.values()):,} parameters: {', '.join(sorted(learned))}"
        )
        saved = self.model.get_submodule(self.saved_part)
        start = self.start_file()
        if start:
            logger.info(f"Starting from {start}")
            load_learned(saved, read_state_dict(start), start, getattr(saved, "names", None))
        if learned:
            self.optim = build_optimizer(list(learned.values()), cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
            self.register_model(self.model_name, saved, self.optim, self.sched)
        self.scaler = self.precision.scaler

    def start_file(self) -> str:
        """Return the checkpoint whose learned tensors to start from; empty for none."""
        return self.cfg.MODEL.INIT_WEIGHTS

    def train(self) -> None:
        """Train and evaluate; where nothing is learned, only evaluate."""
        if self.get_model_names():
            super().train()
        else:
            self.test()

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        """Take one optimizer step on ``batch`` and return loss and accuracy."""
        images, labels = self.parse_batch_train(batch)
        with self.precision.autocast():
            loss, logits = self.model.training_loss(images, labels)
        self.detect_anomaly(loss)
        # Only this project's engine lets processes share a batch (docs/data.md).
        self.precision.backward_and_step(loss, self.optim, getattr(self, "share_gradients", None))
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, labels)[0].item()}

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, H, W) and labels (B,) of ``batch`` on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_inference(self, images: Tensor) -> Tensor:
        """Return (B, K) logits."""
        with self.precision.autocast():
            return self.model(images)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the learned tensors of a run.

        Args:
            directory: the run's output folder; empty means "as initialised".
            epoch: the epoch to load; ``None`` takes the best one on validation if that was kept, else the last one.

        Raises:
            FileNotFoundError: no such checkpoint; names those that exist.
        """
        if not directory:
            logger.info("No model folder given: evaluating the model as initialised")
            return
        for name in self.get_model_names():
            path = checkpoint_path(Path(directory) / name, epoch)
            logger.info(f"Loading weights to {name} from {path}")
            part = self._models[name]
            load_learned(part, read_state_dict(path), str(path), getattr(part, "names", None))
            self.loaded_from = str(path)

    def before_train(self) -> None:
        """Refuse to go on with a run of other settings, then start or resume."""
        check_same_run(self)
        super().before_train()
        self.train_seconds = seconds_before(self)

    def run_epoch(self) -> None:
        """Run one epoch and add up its time."""
        start = time.perf_counter()
        super().run_epoch()
        self.train_seconds += time.perf_counter() - start
        record_epoch(self)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split`` (default ``TEST.SPLIT``), record it, and return the accuracy in percent."""
        split = split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is None:
            logger.warning("There are no validation images: evaluating on the test images instead")
            split = "test"
        start = time.perf_counter()
        with recorded(self) as record:
            accuracy = super().test(split)
        record_result(self, split, accuracy, time.perf_counter() - start, record)
        return accuracy


def checkpoint_path(folder: Path, epoch: int | None) -> Path:
    """Return the file of ``epoch`` in a run's model folder; ``None`` takes the best one, else the last one."""
    saved = {int(m[1]): f for f in folder.glob("model.pth.tar-*") if (m := re.search(r"-(\d+)$", f.name))}
    if epoch is None:
        best = folder / "model-best.pth.tar"
        if best.is_file():
            return best
        if saved:
            return saved[max(saved)]
    elif epoch in saved:
        return saved[epoch]
    asked = "checkpoint" if epoch is None else f"epoch {epoch}"
    if not folder.is_dir():
        others = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        there = f"the folder does not exist; {folder.parent} holds {', '.join(others) or 'nothing'}"
    else:
        there = f"it holds epochs {', '.join(map(str, sorted(saved))) or 'none'}"
    raise FileNotFoundError(f"no {asked} in {folder}: {there}")


def add_node(cfg: Any, method: type[PromptTrainer]) -> None:
    """Add a method's node with its defaults to ``cfg.TRAINER``."""
    cfg.TRAINER[method.node] = CfgNode(dict(method.defaults))


def short_start(words: str, length: int, clip_model: nn.Module) -> tuple[str, list[Tensor]]:
    """Return the fixed words and the start of a prompt in MaPLe's way: words start a prompt of up to four vectors.

    Args:
        words: CTX_INIT; the words beyond the first ``length`` tokens stay in the prompt as they are.
        length: b; above four, the prompt starts at random behind placeholders.
        clip_model: whose token embeddings to start from.

    Returns:
        The words of the prompt (empty for placeholders), and a list of one (b, d_l) start or none.
    """
    if not words or length > 4:
        return "", []
    return words, [word_vectors(clip_model, words, length)]


def tower_names(own: str, tower: str, depth: int) -> dict[str, str]:
    """Return released names of prompts that are stored inside a tower: ``<tower>.VPT`` and one a deeper block.

    Args:
        own: path of the learner in our model, such as "prompt_learner.visual".
        tower: "image_encoder" or "text_encoder".
        depth: blocks that see prompts.
    """
    deep = "compound_prompts_text" if tower == "text_encoder" else "deep"
    blocks = {
        f"{own}.{deep}.{i}": f"{tower}.transformer.resblocks.{i + 1}.VPT_shallow" for i in range(max(0, depth - 1))
    }
    return {f"{own}.ctx": f"{tower}.VPT", **blocks}


def check_input_size(size: Sequence[int], clip_model: nn.Module, backbone: str) -> None:
    """Raise ``ValueError`` unless INPUT.SIZE is the image size of the backbone."""
    expected = tuple(input_size(clip_model))
    if tuple(size) != expected:
        raise ValueError(f"INPUT.SIZE is {tuple(size)}, the backbone {backbone} takes {expected}: set it to that")


def embedded_checkpoints() -> dict[str, str]:
    """Return the checkpoints that come with the project: backbone name to file."""
    assets = Path(__file__).resolve().parent.parent / "assets"
    return {"mini": os.fspath(assets / "mini_clip" / "mini_clip.safetensors")}

"""The stages of pre-training and one step of each: forward and backward in chunks, on several threads of a CPU."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor, nn

from .sampling import Batch
from .towers import Words, contrast, image_features, text_features

VARIANCE = 0.1  # of a patch's normalised pixels, above that of grain and slopes


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str  # the file of weights holds it
    pictures: int  # seen in all
    batch: int  # pictures a step
    rate: float  # highest learning rate
    free: tuple[float, float]  # share of pictures with colours, backgrounds and movement, at the start and at the end
    kept: float  # share of patches that are read
    floor: tuple[float, float]  # smallest 1 / tau at the start and at the end
    least: int  # pictures that a name must have unless it is a class of the suite
    captions: bool = True  # pictures are compared with captions; otherwise a linear layer names them

    @property
    def steps(self) -> int:
        return math.ceil(self.pictures / self.batch)


STAGES = (
    Stage("names", 120_000, 128, 7e-4, (0.0, 0.2), 0.375, (14.0, 14.0), 24, captions=False),
    Stage("captions", 307_200, 256, 1e-3, (0.2, 0.4), 0.375, (14.0, 16.0), 3),
    # The committed weights left this stage early: its rate was that of 500,000 pictures, nearly constant.
    Stage("frequent", 70_400, 256, 1e-3, (0.3, 0.37), 0.5, (16.0, 18.0), 12),
    Stage("colours", 1_000_000, 256, 1e-3, (0.4, 1.0), 0.5, (18.0, 50.0), 24),
    Stage("whole", 200_000, 512, 2e-4, (1.0, 1.0), 1.0, (50.0, 55.0), 12),
)


def between(ends: tuple[float, float], progress: float) -> float:
    """Return the number that lies at ``progress`` in [0, 1] between two."""
    return ends[0] + (ends[1] - ends[0]) * progress


def rate_at(stage: Stage, step: int, warmup: int = 100) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine to a fiftieth."""
    warmup = min(warmup, max(1, stage.steps // 10))
    if step < warmup:
        return stage.rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    return stage.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def groups(modules: list[nn.Module], decay: float) -> list[dict]:
    """Return parameter groups: weight decay on matrices only, none on embeddings."""
    named = [pair for module in modules for pair in module.named_parameters()]
    free = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    return [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]


class Chunks:
    """Computes chunks of ``size`` pictures or captions in parallel, each operator on one core.

    One thread computes in the calling thread, as a GPU needs it. ``autocast`` is the type of matrix products, None for
    float32.
    """

    def __init__(self, threads: int, size: int, autocast: torch.dtype | None, device: str) -> None:
        self.size, self.autocast, self.device = size, autocast, torch.device(device)
        one_core = {"initializer": torch.set_num_threads, "initargs": (1,)}
        self.map = ThreadPoolExecutor(threads, **one_core).map if threads > 1 else map

    def jobs(self, tower: Callable[..., Tensor], *tensors: Tensor | None) -> list[Callable[[], Tensor]]:
        """Return a function for each chunk that runs ``tower`` on it; tensors are cut along their first axis."""
        given = [t.to(self.device).split(self.size) for t in tensors if t is not None]
        return [partial(tower, *chunk) for chunk in zip(*given)]

    def forward(self, jobs: list[Callable[[], Tensor]]) -> list[Tensor]:
        """Run jobs that return features, in the type of ``autocast``; results are float32 and keep their graphs."""

        def cast(job: Callable[[], Tensor]) -> Tensor:
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                return job().float()

        return list(self.map(cast, jobs))

    def backward(self, outputs: list[Tensor], *leaves: Tensor) -> None:
        """Propagate to the parameters the gradients of the leaves, which hold all chunks of the outputs in order."""
        list(self.map(Tensor.backward, outputs, [g for leaf in leaves for g in leaf.grad.split(self.size)]))


def joined(outputs: list[Tensor]) -> Tensor:
    """Return outputs of chunks as one leaf (B, embed) that takes a gradient."""
    return torch.cat([output.detach() for output in outputs]).requires_grad_()


def kept_patches(pixels: Tensor, side: int, share: float, seed: list[int]) -> Tensor | None:
    """Return (B, k) indices of the patches that are read, drawn for each picture; None for all.

    Patches with content come first, then empty ones. ``pixels`` (B, 3, H, W) are normalised, ``side`` is a patch's in
    pixels, and k is a ``share`` of all patches.
    """
    if share >= 1:
        return None
    count, _, height, width = pixels.shape
    patches = pixels.view(count, 3, height // side, side, width // side, side)
    seen = (patches.var((3, 5)).amax(1) > VARIANCE).flatten(1)
    draw = torch.from_numpy(np.random.default_rng(seed).random(seen.shape)).to(seen.device) + seen
    return draw.argsort(1, descending=True)[:, : round(share * seen.shape[1])]


def step_names(model: CLIP, head: nn.Linear, batch: Batch, kept: Tensor | None, chunks: Chunks) -> tuple[float, float]:
    """Add the gradients of naming the pictures by a linear layer; return the loss and the accuracy in percent."""
    outputs = chunks.forward(chunks.jobs(partial(image_features, model), batch.pixels, kept))
    image = joined(outputs)
    logits, names = head(image), batch.names.to(image.device)
    loss = F.cross_entropy(logits, names, label_smoothing=0.05)
    loss.backward()
    chunks.backward(outputs, image)
    return loss.item(), 100 * (logits.argmax(1) == names).float().mean().item()


def step_captions(
    model: CLIP, words: Words, batch: Batch, kept: Tensor | None, chunks: Chunks
) -> tuple[float, float, int]:
    """Add the gradients of the contrast with captions; return loss, accuracy in the batch and the longest caption."""
    ids, ends = words.batch(batch.captions)
    pictures = chunks.jobs(partial(image_features, model), batch.pixels, kept)
    texts = chunks.jobs(partial(text_features, model), ids, ends)
    outputs = chunks.forward(pictures + texts)
    image, text = joined(outputs[: len(pictures)]), joined(outputs[len(pictures) :])
    true = batch.truth().to(image.device)
    loss = contrast(image, text, model.logit_scale.exp(), true)
    loss.backward()
    chunks.backward(outputs, image, text)
    with torch.no_grad():
        best = (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1)
        right = true[torch.arange(len(true)), best].float().mean().item()
    return loss.item(), 100 * right, ids.shape[1]

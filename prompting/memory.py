"""Memory of a training step: the number of classes at once and of recomputed blocks that fits it into a limit.

Between the forward and the backward pass, autograd keeps per position and block, in units of the tower's width: the
inputs of both norms (2), queries, keys and values (3), the attention output (1) and the hidden layer of the MLP (4 in
CLIP). A recomputed block keeps its input (1). With classes in chunks, one chunk's activations are kept at a time.
"""

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from prompting import process
from prompting.clip import PromptTokens, TextEncoder
from prompting.clip.blocks import can_split
from prompting.clip.layout import lay_out
from prompting.clip.shape import mlp_ratio, tower_dtype
from prompting.learners import Prompts
from prompting.ot import HierarchicalOT

KEPT = 6  # widths kept per position and block besides the hidden layer: 2 + 3 + 1
WORKING = 12  # widths per position of a running block's temporaries, besides three hidden layers
HEADROOM = 0.9  # fraction of the free memory of a GPU that a run may take
SLACK = 0.15  # fraction that fragmentation adds to the memory of a step
MIN_ROWS = 128  # a matrix product with fewer rows takes about as long as one with 128


@dataclass(frozen=True)
class MemoryPlan:
    """Choices for a training step and its estimated memory."""

    classes: int  # K
    classes_at_once: int  # classes that the text tower runs together
    text_blocks: int  # recomputed blocks of a tower
    vision_blocks: int
    parts: dict[str, int]  # bytes by purpose; "held" is the process's memory before the step
    recompute_flops: float  # multiply-adds of the recomputation

    @property
    def total(self) -> int:
        """Estimated peak in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items())
        return (
            f"{self.total / 1e9:.2f} GB estimated ({parts}); {self.classes_at_once} of {self.classes} classes at once, "
            f"{self.text_blocks} text and {self.vision_blocks} vision blocks recomputed"
        )


class Tower(NamedTuple):
    """One tower in a training step."""

    positions: float
    width: int
    itemsize: int  # bytes of a number
    hidden: float  # width of the MLP's hidden layer / width of the tower
    blocks: int
    learned: bool  # whether gradients flow through the blocks

    def kept(self, recomputed: int = 0) -> float:
        """Return the bytes kept for the backward pass, with ``recomputed`` blocks recomputed."""
        widths = (KEPT + self.hidden) * (self.blocks - recomputed) + recomputed
        return widths * self.positions * self.width * self.itemsize * self.learned

    def working(self) -> float:
        """Return the bytes of a running block's temporaries."""
        return (WORKING + 3 * self.hidden) * self.positions * self.width * self.itemsize

    def flops(self, blocks: int, rows: float = 0) -> float:
        """Return the multiply-adds of recomputing ``blocks`` blocks with ``rows`` additional positions; the last matrix
        product of the MLP is not recomputed."""
        return (4 + self.hidden) * self.width**2 * blocks * (self.positions + rows)


def configure_memory(model: Any, images: int, limit: int, device: torch.device | str) -> MemoryPlan | None:
    """Choose the plan that fits the limit and recomputes the least, and set it on the encoders of a model.

    Args:
        model: a ``PromptedCLIP`` on its device.
        images: B of one process.
        limit: memory limit in bytes of a run on its device; on a CPU the processes of this machine share it. 0 means no
            limit on a CPU, and the free memory that torch reports on a GPU.
        device: the model's device.

    Returns:
        The plan; None for a model with ``chunks_text``, which splits its classes in ``forward``.

    Raises:
        ValueError: the given limit is too small, even with one class at a time.
    """
    if model.chunks_text:
        return None
    held, allowed = held_bytes(device), float(limit or "inf")
    if torch.device(device).type == "cuda":
        allowed = limit or held + HEADROOM * torch.cuda.mem_get_info(device)[0]
    elif processes() > 1:
        allowed /= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    plans = plan_memory(model, images, held)
    least = min(plans, key=lambda plan: plan.total)
    if limit and least.total > allowed:
        raise ValueError(
            f"a training step needs {least.total / 1e9:.2f} GB with one class at a time, more than the "
            f"{allowed / 1e9:.2f} GB allowed; allow more, or use smaller batches or fewer visual prompts"
        )
    fitting = [plan for plan in plans if plan.total <= allowed] or [least]
    plan = min(fitting, key=lambda plan: plan.recompute_flops)
    model.text_encoder.classes_at_once = None if plan.classes_at_once == plan.classes else plan.classes_at_once
    model.text_encoder.recompute_blocks = plan.text_blocks
    model.image_encoder.recompute_blocks = plan.vision_blocks
    return plan


def plan_memory(model: Any, images: int, held: int = 0) -> list[MemoryPlan]:
    """Return the possible plans of a training step: K, K / 2, .., 1 classes at once, 0 to all blocks recomputed.

    Args:
        model: a ``PromptedCLIP``.
        images: B of one process.
        held: bytes that the process holds before the step.
    """
    (tokens, prompts), *others = model.training_text()
    token_set = getattr(model, "token_set", None)
    text, per_class = _text(model.text_encoder, tokens, prompts, token_set)
    kept_by_others = sum(_text(model.text_encoder, *other)[0].kept() for other in others)
    n, classes = max(len(tokens.ids), 1 if prompts.text is None else len(prompts.text)), tokens.ids.shape[1]
    length = 0 if token_set is None else int(token_set.sum(-1).max())
    visual_prompts = [v for v in (prompts.visual, *prompts.deep_visual) if v is not None]
    m, b = visual_prompts[0].shape[:2] if visual_prompts else (1, 0)
    shape, visual = model.shape, model.image_encoder.visual
    positions = images * m * (1 + shape.patches + b)
    itemsize = tower_dtype(visual).itemsize
    learned = bool(visual_prompts) or any(adapter is not None for adapter in prompts.visual_adapters)
    vision = Tower(positions, shape.vision_width, itemsize, mlp_ratio(visual), shape.vision_layers, learned)
    # Three copies of text features (computed, gathered, normalised), two of visual features (computed, normalised).
    features = 4 * shape.embed_dim * (3 * classes * n * (1 + length) + 2 * positions)
    transport = _transport(model, images * classes * n * m, (shape.patches + b) * length)

    choices, k, plans = [(classes, t) for t in range(text.blocks + 1 if text.learned else 1)], classes, []
    while k > 1:
        k = (k + 1) // 2
        choices.append((k, 0))
    for (k, t), v in product(choices, range(vision.blocks + 1 if vision.learned else 1)):
        chunk = text if k == classes else text._replace(positions=min(k * per_class, text.positions))
        flops = text.flops(t) if k == classes else text.flops(text.blocks, MIN_ROWS * classes / k)
        parts = {
            "vision": vision.kept(v),
            "text": chunk.kept(t) + kept_by_others,
            "features": features,
            "working": max(chunk.working(), vision.working(), transport),
        }
        rounded = {"held": held, **{name: int((1 + SLACK) * size) for name, size in parts.items()}}
        plans.append(MemoryPlan(classes, k, t, v, rounded, flops + vision.flops(v)))
    return plans


def _text(
    encoder: TextEncoder, tokens: PromptTokens, prompts: Prompts, token_set: Tensor | None = None
) -> tuple[Tower, float]:
    """Return the text tower of a step, and the largest number of positions of a class."""
    vectors = (prompts.text, *prompts.deep_text)
    _, (chunk,), _ = lay_out(tokens, vectors, token_set, share_prefix=can_split(encoder.transformer))
    hidden, learned = mlp_ratio(encoder), any(v is not None for v in (*vectors, *prompts.text_adapters))
    # Each suffix also keeps the keys and values of its prefix: 2 widths per prefix position.
    sizes = [group.length + 2 / (KEPT + hidden) * group.prefix for group in chunk.groups]
    positions = sum(len(group.prompts) * size for group, size in zip(chunk.groups, sizes))
    longest = {group.prefix: len(group.prompts.unique()) * size for group, size in zip(chunk.groups, sizes)}
    width, blocks = encoder.token_embedding.weight.shape[1], len(encoder.transformer.resblocks)
    return Tower(positions, width, tower_dtype(encoder).itemsize, hidden, blocks, learned), sum(longest.values())


def _transport(model: Any, costs: int, tokens: int) -> int:
    """Return the bytes that the transport needs: six floats per cost of the prompt level, five per token cost."""
    head = getattr(model, "head", None)
    if not isinstance(head, HierarchicalOT):
        return 0
    costs *= model.shape.patches if model.transports_patches else 1
    return 4 * (6 * costs + 5 * min(costs * tokens * head.uses_tokens, head.settings.max_elements))


def processes() -> int:
    """Return the number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def held_bytes(device: torch.device | str = "cpu") -> int:
    """Return the memory of this process in bytes: allocated by torch on a GPU, else its resident set."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes(device) or 0


def peak_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the peak memory of this process on a device, in bytes; None if the system does not report it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process.peak_bytes()

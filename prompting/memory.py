"""How many classes run at once, and how many blocks are recomputed, so that a training step fits into a memory limit.

Between the forward and the backward pass, autograd keeps per position and block, in units of the tower's width: the
inputs of both norms (2), queries, keys and values (3), the attention output (1) and the hidden layer of the MLP (4 in
CLIP). A recomputed block keeps its input (1). Classes in chunks keep the activations of one chunk at a time.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from prompting.clip import PromptTokens, TextEncoder
from prompting.clip.shape import hidden_widths, tower_dtype
from prompting.learners import Prompts
from prompting.ot import HierarchicalOT

try:
    import resource
except ImportError:  # not on Windows
    resource: Any = None  # type: ignore[no-redef]

KEPT = 6  # widths kept per position and block besides the hidden layer: 2 + 3 + 1
WORKING = 12  # widths per position that a block needs while it runs, besides three hidden layers
MIN_ROWS = 128  # a matrix product with fewer rows takes about as long as one with so many
TRANSPORT_CHUNK = 2**26  # token costs that the transport holds at once (max_elements of HierarchicalOT)


@dataclass(frozen=True)
class MemoryPlan:
    """Choices for a training step and the memory that it is estimated to need.

    Attributes:
        parts: bytes by purpose; ``held`` is what the process holds before the step.
        classes: K.
        classes_at_once: classes that the text tower runs together.
        text_blocks: recomputed blocks of the text tower.
        vision_blocks: recomputed blocks of the vision tower.
        recompute_flops: multiply-adds of the recomputation.
        limit: bytes that may be held; None is no limit.
    """

    parts: dict[str, int]
    classes: int
    classes_at_once: int
    text_blocks: int
    vision_blocks: int
    recompute_flops: float
    limit: int | None

    @property
    def total(self) -> int:
        """Estimated peak in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items())
        limit = "" if self.limit is None else f" of {self.limit / 1e9:.2f} GB"
        chunks = "" if self.classes_at_once == self.classes else " (recomputed)"
        return (
            f"{self.total / 1e9:.2f} GB estimated{limit} ({listed}); {self.classes_at_once} of {self.classes} classes at "
            f"once{chunks}, recomputed blocks: {self.text_blocks} text, {self.vision_blocks} vision"
        )


class _Sizes(NamedTuple):
    """One tower's share of a step: bytes of one width at all positions, what a block keeps and needs while it runs (in
    bytes), multiply-adds of a block per position, positions, and the share of them that belongs to one class."""

    width: float
    kept: float
    working: float
    flops: float
    positions: int
    per_class: float = 0.0


def configure_memory(model: Any, images: int, limit: int, device: torch.device | str) -> MemoryPlan | None:
    """Choose the plan that fits the limit and recomputes the least, and set it on the encoders of a model.

    Args:
        model: a ``PromptedCLIP`` on its device.
        images: B of one process.
        limit: bytes that a run may hold on its device, shared by the processes on this machine if that is a CPU. 0 is
            no limit on a CPU, and on a GPU what torch reports as free.
        device: the model's device.

    Returns:
        The plan; None for a model that splits its classes itself.

    Raises:
        ValueError: a given limit is too small even for one class at a time.
    """
    if model.own_parts:
        return None
    held, most = held_bytes(device), limit or None
    if torch.device(device).type == "cuda":
        most = most or held + torch.cuda.mem_get_info(device)[0]
    elif most and processes() > 1:
        most //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    plans = estimate(model, images, held, most)
    fitting = [plan for plan in plans if most is None or plan.total <= most]
    plan = min(fitting, key=lambda plan: plan.recompute_flops) if fitting else min(plans, key=lambda plan: plan.total)
    if limit and not fitting:
        raise ValueError(
            f"a training step needs {plan.total / 1e9:.2f} GB with one class at a time, more than the "
            f"{plan.limit / 1e9:.2f} GB allowed; allow more, or use smaller batches or fewer visual prompts"
        )
    model.text_encoder.classes_at_once = None if plan.classes_at_once == plan.classes else plan.classes_at_once
    model.text_encoder.recompute_blocks = plan.text_blocks
    model.image_encoder.recompute_blocks = plan.vision_blocks
    return plan


def estimate(model: Any, images: int, held: int, limit: int | None = None) -> list[MemoryPlan]:
    """Return all plans for a training step: K, K / 2, ..., 1 classes at once, and recomputed blocks of both towers.

    Args:
        model, images: as for ``configure_memory``.
        held: bytes held before the step.
        limit: is put into the plans.
    """
    (tokens, prompts), *others = model.training_text()
    classes, token_set = tokens.ids.shape[1], getattr(model, "token_set", None)
    text, further = (
        _text(model.text_encoder, tokens, prompts, token_set),
        [_text(model.text_encoder, *o) for o in others],
    )
    vision, (layers_text, layers_vision) = (
        _vision(model, prompts, images),
        (model.shape.text_layers, model.shape.vision_layers),
    )
    n = max(tokens.ids.shape[0], 1 if prompts.text is None else prompts.text.shape[0])
    length = 1 if token_set is None else 1 + int(token_set.sum(-1).max())
    # Text features as computed, gathered and normalised; visual ones as computed and normalised.
    features = 4 * model.shape.embed_dim * (3 * classes * n * length + 2 * vision.positions)
    transport = _transport(model, images, classes * n, length - 1, prompts.visual)
    sizes = [classes]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    plans = []
    for at_once in sizes:
        share = min(1.0, at_once * text.per_class)
        chunks = 1 if at_once == classes else -(-classes // at_once)
        for text_blocks in range(layers_text + 1 if chunks == 1 and text.kept else 1):
            kept = layers_text * share * text.kept - text_blocks * (text.kept - text.width)
            again = layers_text * (text.positions + MIN_ROWS * chunks) if chunks > 1 else text_blocks * text.positions
            for vision_blocks in range(layers_vision + 1 if vision.kept else 1):
                parts = {
                    "held": held,
                    "vision": int(layers_vision * vision.kept - vision_blocks * (vision.kept - vision.width)),
                    "text": int(kept + sum(layers_text * other.kept for other in further)),
                    "features": features,
                    "working": int(max(share * text.working, vision.working, transport)),
                }
                flops = text.flops * again + vision.flops * vision_blocks * vision.positions
                plans.append(MemoryPlan(parts, classes, at_once, text_blocks, vision_blocks, flops, limit))
    return plans


def _text(encoder: TextEncoder, tokens: PromptTokens, prompts: Prompts, token_set: Tensor | None = None) -> _Sizes:
    given = [vectors for vectors in (prompts.text, *prompts.deep_text) if vectors is not None]
    n, classes = max([tokens.ids.shape[0], *(vectors.shape[0] for vectors in given)]), tokens.ids.shape[1]
    layout = encoder.layout(
        tokens,
        n,
        learned=bool(given),
        class_specific=any(vectors.dim() == 4 for vectors in given),
        token_set=token_set,
        classes_at_once=classes,
    )
    groups = layout.chunks[0].groups
    longest = {group.prefix: len(group.prompts) * group.length for group in groups}  # ascending in length
    prefix_keys = sum(len(group.prompts) * group.classes * group.prefix for group in groups)
    d, hidden = encoder.token_embedding.weight.shape[1], hidden_widths(encoder)
    width, rows = d * tower_dtype(encoder).itemsize, sum(group.rows for group in groups)
    kept = ((KEPT + hidden) * layout.positions + 2 * prefix_keys) * width if given else 0
    working = (WORKING + 3 * hidden) * layout.positions * width
    flops = (4 + 2 * hidden) * d**2
    return _Sizes(width * rows, kept, working, flops, rows, sum(longest.values()) / rows)


def _vision(model: Any, prompts: Prompts, images: int) -> _Sizes:
    shape, visual = model.shape, model.image_encoder.visual
    given = [] if prompts.visual is None else [prompts.visual, *prompts.deep_visual]
    m, b = max([1, *(len(vectors) for vectors in given)]), given[0].shape[1] if given else 0
    positions, hidden = images * m * (1 + shape.patches + b), hidden_widths(visual)
    width = positions * shape.vision_width * tower_dtype(visual).itemsize
    kept = (KEPT + hidden) * width if given else 0
    return _Sizes(width, kept, (WORKING + 3 * hidden) * width, (4 + 2 * hidden) * shape.vision_width**2, positions)


def _transport(model: Any, images: int, texts: int, length: int, visual: Tensor | None) -> int:
    """Return the working memory of the transport: about six floats per cost of the prompt level and five per token
    cost."""
    if not isinstance(head := getattr(model, "head", None), HierarchicalOT):
        return 0
    m, b = (1, 0) if visual is None else visual.shape[:2]
    costs = images * texts * m * (model.shape.patches if model.transports_patches else 1)
    token_costs = costs * (model.shape.patches + b) * length if head.uses_tokens else 0
    return 4 * (6 * costs + 5 * min(token_costs, TRANSPORT_CHUNK))


def processes() -> int:
    """Return how many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def held_bytes(device: torch.device | str = "cpu") -> int:
    """Return the memory that this process holds: what torch has allocated on a GPU, else the peak so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    return peak_bytes(device) or 0


def peak_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the most memory that this process has held on a device; None where the system does not report it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""What a training step will hold in memory, and how many classes may be run at once for it to fit.

Between the forward and the backward pass a block keeps, for each position it runs and in units of the tower's width:
the inputs of its two norms (2), queries, keys and values (3), the attention's output (1), the hidden layer of its MLP
(4 in CLIP). Frozen layers keep nothing more. The vision tower runs B * M * (1 + O + b) positions; the text tower those
of its layout (``prompting.clip.layout``), of all classes, or of one part of them at a time. Where that is too much, the
text tower runs fewer classes at once and blocks of the vision tower drop their hidden layer; both are computed again in
the backward pass, and what costs the least computing is chosen.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from prompting.clip import PromptTokens, TextEncoder, VisionEncoder
from prompting.clip.blocks import can_split
from prompting.clip.layout import Layout
from prompting.clip.shape import hidden_widths, tower_dtype
from prompting.learners import Prompts

try:
    import resource
except ImportError:  # not on Windows
    resource: Any = None  # type: ignore[no-redef]

KEPT = 6  # widths a position and block beside its hidden layer: 2 + 3 + 1, see above
KEPT_LAST = 3  # of a last block that is asked for CLS alone: the inputs of its first norm, keys and values
PASSING = 6  # widths a position of the block that is at work, forward or backward, beside its hidden layer
SHARED = 2  # hidden layers, one and its slope, which each tower holds once (``prompting.clip.mlp``)
FEW = 128  # a product of few rows takes about as long as if it had so many more
GROUPS = Path("/sys/fs/cgroup")  # of control groups
OWN_GROUPS = Path("/proc/self/cgroup")  # lines of number:controllers:path
GROUP_FILES = {  # controllers, folder, limit and use, of versions 2 and 1
    "": ("", "memory.max", "memory.current"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}
HEADROOM = 0.9  # of the free memory that is used where no budget is given


@dataclass(frozen=True)
class Prediction:
    """Bytes that a training step will hold at its peak.

    Attributes:
        parts: bytes by what they are for.
        classes: K.
        classes_at_once: classes that the text tower runs together.
        budget: bytes that may be held; None if nobody asked.
        lean: blocks of the vision tower whose hidden layer is computed again.
        again: what that costs, in products (multiplications and additions).
        adds: the most that running one part of the classes or of the images adds, of the total.
    """

    parts: dict[str, int]
    classes: int
    classes_at_once: int
    budget: int | None = field(default=None)
    lean: int = 0
    again: int = 0
    adds: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items())
        of = "" if self.budget is None else f" of {self.budget / 1e9:.2f} GB"
        how = "" if self.classes_at_once == self.classes else ", recomputed in the backward pass"
        run = f"{self.classes_at_once} of {self.classes} classes at once{how}"
        run += f"; hidden layers of {self.lean} vision blocks recomputed" if self.lean else ""
        return f"{self.total / 1e9:.2f} GB predicted{of} ({listed}); {run}"


def predict(
    text: TextEncoder,
    vision: VisionEncoder,
    tokens: PromptTokens,
    prompts: Prompts,
    images: int,
    *,
    token_set: Tensor | None = None,
    constant_tokens: bool = False,
    classes_at_once: int | None = None,
    lean: int = 0,
    head: int = 0,
    beside: int = 0,
    held: int | None = None,
    budget: int | None = None,
) -> Prediction:
    """Predict the memory of a training step.

    Args:
        text, vision: the encoders.
        tokens: the prompts of K classes.
        prompts: the learned tensors, of which only the shapes matter.
        images: B.
        token_set, constant_tokens: as for the encoders; tokens that nobody asks for are constant, too.
        classes_at_once: classes that the text tower runs together; None is all.
        lean: as of the vision encoder.
        head: working memory of the head, bytes.
        beside: bytes kept for the backward pass of further prompts.
        held: bytes held already; None takes the weights.
        budget: put into the result.

    Returns:
        The prediction.
    """
    classes = tokens.ids.shape[1]
    at_once = min(classes_at_once or classes, classes)
    kept_text, again, run_text, outputs = _text(text, tokens, prompts, token_set, constant_tokens, at_once)
    shape, size = vision.shape, _itemsize(vision)
    m = 1 if prompts.visual is None else max(v.shape[0] for v in (prompts.visual, *prompts.deep_visual))
    b = 0 if prompts.visual is None else prompts.visual.shape[1]
    positions = images * m * (1 + shape.patches + b)
    seen, most = positions * shape.vision_width * size, _lean_most(vision, prompts, constant_tokens)
    lean, part = min(lean, most), min(images, vision.images_at_once(m) or images)
    wide, wide_text = hidden_widths(vision.visual), hidden_widths(text)
    kept = (KEPT + wide) * shape.vision_layers - wide * lean
    kept -= KEPT + wide - KEPT_LAST if most and constant_tokens else 0
    at_once_seen = seen * part // images if images else 0
    shared = SHARED * (wide_text * run_text + wide * at_once_seen)
    parts = {
        "held" if held is not None else "weights": _weights(text, vision) if held is None else held,
        # Without visual prompts nothing waits for a backward pass through this tower.
        "vision": int(seen * kept) if prompts.visual is not None else 0,
        "text": kept_text + beside,
        "features": outputs + 2 * positions * shape.embed_dim * 4,
        "at work": max(run_text * PASSING, at_once_seen * PASSING, head) + int(shared),
    }
    again += int(wide * lean * positions * shape.vision_width**2)
    adds = parts["at work"] + max(kept_text, parts["vision"] * part // max(images, 1))
    return Prediction(parts, classes, at_once, budget, lean, again, adds)


def _lean_most(vision: VisionEncoder, prompts: Prompts, constant_tokens: bool) -> int:
    """Return how many blocks of the vision tower keep a hidden layer that they could do without."""
    if prompts.visual is None or not can_split(vision.visual.transformer):
        return 0
    return vision.shape.vision_layers - constant_tokens


def _text(
    encoder: TextEncoder,
    tokens: PromptTokens,
    prompts: Prompts,
    token_set: Tensor | None,
    constant_tokens: bool,
    at_once: int,
) -> tuple[int, int, int, int]:
    """Return bytes that the text tower keeps, products computed again, bytes of one width over the positions it runs at
    once, and bytes of its outputs."""
    given = [v for v in (prompts.text, *prompts.deep_text) if v is not None]
    n = max([tokens.ids.shape[0], *(v.shape[0] for v in given)])
    specific = any(v.dim() == 4 for v in given)
    layout = encoder.layout(tokens, n, learned=bool(given), class_specific=specific, token_set=token_set, step=at_once)
    width, layers = encoder.token_embedding.weight.shape[1], len(encoder.transformer.resblocks)
    unit, classes, wide = width * _itemsize(encoder), tokens.ids.shape[1], hidden_widths(encoder)
    length = 1 if token_set is None else 1 + int(token_set.sum(-1).max())
    embed = width if encoder.text_projection is None else _columns(encoder.text_projection)
    outputs = 3 * classes * n * length * embed * 4  # as they come, gathered, and at length 1 for the head
    if layout is None:
        positions = n * tokens.ids[0].numel()
        kept = (KEPT + wide) * positions
        return (int(kept * layers * unit) if given else 0), 0, positions * unit, outputs
    kept, at_work = max(_chunk_widths(layout, i, wide) for i in range(len(layout.chunks)))
    opening = layout.prefix_ids.numel()
    widths = (kept + opening * (KEPT + wide)) * layers
    if constant_tokens:  # of the last block's second half EOS alone
        widths -= (1 + wide) * (at_work + opening)
    # What a block multiplies: four maps of attention, two of the MLP.
    # Parts are run three times, forward, again and backward, and small ones keep a machine less busy.
    rows = layout.positions - opening + 3 * FEW * len(layout.chunks)
    again = int((4 + 2 * wide) * rows * layers * width**2) if len(layout.chunks) > 1 else 0
    return (int(widths * unit) if given else 0), again, (at_work + opening) * unit, outputs


def _chunk_widths(layout: Layout, i: int, wide: float) -> tuple[float, int]:
    """Return the widths one block keeps of a part of the classes, and the positions of that part."""
    chunk, p = layout.chunks[i], layout.prefix_ids.shape[1]
    n, classes, s = chunk.size
    run = len(chunk.ids)
    # Norms and MLP on what is run; queries and output padded; keys and values padded, behind those of the prefix.
    return run * (2 + wide) + n * classes * (2 * s + 2 * (p + s)), run


def fit(
    text: TextEncoder,
    vision: VisionEncoder,
    tokens: PromptTokens,
    prompts: Prompts,
    images: int,
    *,
    budget: int | None,
    strict: bool = True,
    **rest: Any,
) -> Prediction:
    """Return the prediction that fits the budget and computes the least again.

    Classes at once are all K, or K / 2, K / 4 .. 1; lean blocks of the vision tower as few as it takes.

    Args:
        text, vision, tokens, prompts, images: as for ``predict``.
        budget: bytes that may be held; None is no limit.
        strict: raise if nothing fits; else return the smallest prediction.
        **rest: further arguments of ``predict``, but for those chosen here.

    Raises:
        ValueError: if one class at a time is too much, and ``strict``.
    """
    fitting, at_once = [], tokens.ids.shape[1]
    most = _lean_most(vision, prompts, rest.get("constant_tokens", False))
    while True:
        found, least = (
            predict(text, vision, tokens, prompts, images, classes_at_once=at_once, lean=lean, budget=budget, **rest)
            for lean in (0, most)
        )
        if budget is None or found.total <= budget:
            fitting.append(found)
            break  # fewer classes at once would compute no less again
        if least.total <= budget:
            each = (found.total - least.total) / most
            lean = math.ceil((found.total - budget) / each)
            again = dict(classes_at_once=at_once, lean=lean, budget=budget, **rest)
            fitting.append(predict(text, vision, tokens, prompts, images, **again))
        if at_once == 1:
            break
        at_once = (at_once + 1) // 2
    if fitting:
        return min(fitting, key=lambda one: one.again)
    if not strict:
        return least
    assert budget is not None  # for the type checker: without one everything fits
    raise ValueError(
        f"a training step needs {least.total / 1e9:.2f} GB with one class at a time, more than the "
        f"{budget / 1e9:.2f} GB allowed; allow more, or use smaller batches or fewer visual prompts"
    )


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return how much memory a device has left (on a CPU where that is unknown: how much there is, as on macOS); None
    where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    listed = Path("/proc/meminfo")
    if listed.is_file():
        lines = dict(line.split(":", 1) for line in listed.read_text().splitlines() if ":" in line)
        left = int(lines["MemAvailable"].split()[0]) * 1024
        return min([left, *_left_to_group()])
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _left_to_group() -> list[int]:
    """Return what each control group that this process is in (of a container or a batch system) leaves, files that are
    only kept in memory not counted; empty for no limit."""
    found = []
    for controllers, (folder, limit, used) in GROUP_FILES.items():
        for group in _own_groups(controllers):
            try:
                most = (GROUPS / folder / group / limit).read_text().strip()
                now = int((GROUPS / folder / group / used).read_text())
                lines = (GROUPS / folder / group / "memory.stat").read_text().splitlines()
                stat = dict(line.split() for line in lines)
                kinds = ("inactive_file", "active_file")
                files = sum(int(stat.get(f"total_{kind}", stat.get(kind, 0))) for kind in kinds)
                if most != "max":
                    found.append(max(0, int(most) - now + files))
            except (OSError, ValueError):  # no such group, or of another make
                continue
    return found


def _own_groups(controllers: str) -> list[PurePosixPath]:
    """Return the group of this process in one hierarchy and all groups above it; the topmost, which a container sees as
    its own, is always among them."""
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else []
    for kinds, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if controllers in kinds.split(","):
            group = PurePosixPath(path.lstrip("/"))
            return list(dict.fromkeys([group, *group.parents, PurePosixPath(".")]))
    return [PurePosixPath(".")]


def held_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return how much memory this process holds on a device, on a CPU everything it holds; None where unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    if pages.is_file():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes(device)


def private_bytes() -> int | None:
    """Return how much of what this process holds is its own: no file of a library, no memory that processes share, such
    as images that loaders keep; None where unknown."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return held_bytes()
    resident, shared = map(int, pages.read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the most memory this process has held on a device; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_freed(above: int = 0) -> None:
    """Give freed memory back to the system where ``private_bytes`` is more than ``above`` and the C library is glibc,
    which keeps most, with holes that no later tensor fits; elsewhere do nothing."""
    if sys.platform != "linux" or (private_bytes() or 0) <= above:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _itemsize(encoder: TextEncoder | VisionEncoder) -> int:
    tower = encoder if isinstance(encoder, TextEncoder) else encoder.visual
    return tower_dtype(tower).itemsize


def _weights(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def _columns(projection: nn.Linear | Tensor) -> int:
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]

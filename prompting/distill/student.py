"""The student: an ``ExportedModel`` with fewer or narrower blocks than CLIP's vision tower and one vector a class."""

import copy

import torch
from torch import nn

from prompting.export.portable import ExportedModel
from prompting.ot.checks import check_count


def make_student(start: ExportedModel, layers: int | None = None, width: int | None = None) -> ExportedModel:
    """Return a student for the classes of ``start``; all of its weights are trained.

    With the width of ``start``, its weights are those of ``start``, of which every (L / layers)-th block is taken
    (DistilBERT, arXiv 1910.01108, section 3). With another width they are drawn from torch's global generator.

    Args:
        start: zero-shot CLIP as an exported model: a vision tower without prompts, and class features (K, D).
        layers: number of blocks, from 1 to the L blocks of ``start``; None takes half of them.
        width: width of a block, a multiple of the width of a head; None takes that of ``start``.

    Raises:
        ValueError: layers or width out of range.
    """
    config = copy.deepcopy(start.config)
    vision, blocks, full = config["vision"], config["vision"]["layers"], config["vision"]["width"]
    layers, width, head = layers or (blocks + 1) // 2, width or full, full // vision["heads"]
    check_count("layers", layers)
    check_count("width", width)
    if layers > blocks:
        raise ValueError(f"layers is {layers}; allowed: 1 to {blocks}, the blocks of the CLIP")
    if width % head:
        raise ValueError(f"width is {width}; allowed: multiples of {head}, the width of a head ({full} is the CLIP's)")
    vision |= {"layers": layers, "width": width, "heads": width // head, "hidden": vision["hidden"] * width // full}
    student = ExportedModel(config)
    if width == full:
        student.load_state_dict(_some_blocks(start, layers))
    else:
        _draw(student)
    return student.train().requires_grad_(True)


def _some_blocks(model: ExportedModel, layers: int) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` with ``layers`` of its blocks, evenly spaced from the first on."""
    blocks = model.config["vision"]["layers"]
    place = {str(i * blocks // layers): str(i) for i in range(layers)}
    state = {}
    for name, value in model.state_dict().items():
        first, kind, *rest = name.split(".") if name.startswith("vision.blocks.") else (name, "")
        if kind and rest[0] not in place:
            continue
        state[".".join([first, kind, place[rest[0]], *rest[1:]]) if kind else name] = value
    return state


@torch.no_grad()
def _draw(student: ExportedModel) -> None:
    """Draw the tensors that no module of torch has drawn, with the standard deviation 1 / sqrt(width) of CLIP."""
    tower = student.vision
    scale = student.config["vision"]["width"] ** -0.5
    for tensor in (tower.cls, tower.positions, tower.projection):
        nn.init.normal_(tensor, std=scale)
    nn.init.normal_(student.classes, std=student.config["vision"]["embed"] ** -0.5)

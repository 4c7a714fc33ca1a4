"""The student: an ``ExportedModel`` with fewer or narrower blocks than CLIP's vision tower and one vector per class."""

import copy

import torch
from torch import nn

from prompting.export.portable import ExportedModel
from prompting.ot.checks import check_count


def make_student(start: ExportedModel, layers: int | None = None, width: int | None = None) -> ExportedModel:
    """Return a student for the classes of ``start``; all weights but the shares of the outputs are trained.

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
    vision, full = config["vision"], config["vision"]["width"]
    blocks = len(start.vision.blocks)
    layers, width, head = layers or (blocks + 1) // 2, width or full, full // vision["heads"]
    check_count("layers", layers)
    check_count("width", width)
    if layers > blocks:
        raise ValueError(f"layers is {layers}; allowed: 1 to {blocks}, the blocks of the CLIP")
    if width % head:
        raise ValueError(f"width is {width}; allowed: multiples of {head}, the width of a head ({full} is the CLIP's)")
    vision |= {"width": width, "heads": width // head, "hidden": vision["hidden"] * width // full}
    vision["adapters"] = [0] * (1 + layers)
    vision["sizes"] |= {"cls": [1, width], "positions": [1 + vision["patches"], width]}
    vision["sizes"]["projection"] = [width, vision["embed"]]
    student = ExportedModel(config)
    student.load_state_dict(_some_blocks(start, layers) if width == full else _drawn(student, start))
    student.train().requires_grad_(True)
    student.features["shares"].requires_grad_(False)
    return student


def _some_blocks(model: ExportedModel, layers: int) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` with ``layers`` of its blocks, evenly spaced from the first on."""
    cut, blocks = copy.deepcopy(model), list(model.vision.blocks)
    cut.vision.blocks = nn.ModuleList([blocks[i * len(blocks) // layers] for i in range(layers)])
    return cut.state_dict()


def _drawn(student: ExportedModel, start: ExportedModel) -> dict[str, torch.Tensor]:
    """Return a state in which the tensors that no module of torch draws have the deviation 1 / sqrt(width) of CLIP."""
    state = student.state_dict()
    for name in ("cls", "positions", "projection"):
        nn.init.normal_(state[f"vision.tensors.{name}"], std=student.config["vision"]["width"] ** -0.5)
    nn.init.normal_(state["features.classes"], std=student.config["vision"]["embed"] ** -0.5)
    return state | {"features.shares": start.features["shares"]}

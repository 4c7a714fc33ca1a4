"""ALIGN and MMP for Dassl."""

from __future__ import annotations

from yacs.config import CfgNode

from prompting.methods import align
from trainers.trainer import PromptTrainer, add_nodes, register


@register
class ALIGN(PromptTrainer):
    """ALIGN as the paper states it (``READING: paper``), or as its code computes it (``READING: released``)."""

    model_class = align.ALIGN
    node = "ALIGN"
    default_precision = "auto"
    model_name = "MultiModalPromptLearner"


@register
class MMP(ALIGN):
    """ALIGN under the name and keys of the authors' YAML files, which means the reading ``released``."""

    model_class = align.MMP
    node = "MMP"
    default_precision = "fp16"


def extend_cfg(cfg: CfgNode) -> None:
    """Add the nodes of ALIGN and MMP to ``cfg.TRAINER``, for a ``train.py`` outside this project (docs/plugin.md)."""
    add_nodes(cfg, ALIGN, MMP)

"""ALIGN and MMP for Dassl."""

from yacs.config import CfgNode

from prompting.methods import align
from trainers.trainer import PromptTrainer, add_nodes, register


@register
class ALIGN(PromptTrainer):
    """ALIGN in the reading of the paper (``READING: paper``) or of the authors' code (``READING: released``)."""

    model_class = align.ALIGN
    node = "ALIGN"
    default_precision = "auto"
    model_name = "MultiModalPromptLearner"


@register
class MMP(ALIGN):
    """ALIGN in the reading ``released``, with the name and config keys of the authors' YAML files."""

    model_class = align.MMP
    node = "MMP"
    default_precision = "fp16"


def extend_cfg(cfg: CfgNode) -> None:
    """Add the nodes of ALIGN and MMP to ``cfg.TRAINER``, for the ``train.py`` of another project (docs/plugin.md)."""
    add_nodes(cfg, ALIGN, MMP)

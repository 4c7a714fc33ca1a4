"""The methods: importing this package registers them all in Dassl's trainer registry."""

from __future__ import annotations

from typing import Any

from prompting.clip import register_checkpoint
from trainers import speed
from trainers.align import ALIGN, MMP
from trainers.base import add_node, embedded_checkpoints
from trainers.cocoop import CoCoOp
from trainers.coop import CoOp
from trainers.ivlp import IVLP
from trainers.maple import MaPLe
from trainers.plot import PLOT
from trainers.plotpp import PLOTPP
from trainers.proda import ProDA
from trainers.upt import UPT
from trainers.vpt import VPT
from trainers.zsclip import ZeroshotCLIP

METHODS = (ZeroshotCLIP, CoOp, CoCoOp, ProDA, PLOT, PLOTPP, VPT, UPT, IVLP, MaPLe, ALIGN, MMP)

for _name, _path in embedded_checkpoints().items():
    register_checkpoint(_name, _path)


def extend_cfg(cfg: Any) -> None:
    """Add every method's node to ``cfg.TRAINER``, with its defaults."""
    for method in METHODS:
        add_node(cfg, method)
    cfg.TRAIN.update(speed.DEFAULTS)

"""MMRL for Dassl."""

from dataclasses import replace
from typing import cast

from yacs.config import CfgNode

from prompting.methods import mmrl
from trainers.trainer import PromptTrainer, register

SOURCES = ("ImageNet", "MiniSource")  # data sets that cross-data-set models are trained on


@register
class MMRL(PromptTrainer):
    """Learns tokens that enter the deeper blocks of both towers."""

    model_class = mmrl.MMRL
    node = "MMRL"
    other_keys = {"TASK": "TASK"}
    model_name = "MultiModalRepresentationLearner"
    unused = ("prompt_embeddings",)

    @classmethod
    def options(cls, cfg: CfgNode) -> mmrl.MMRLOptions:
        """Return the model's options; ``seen`` follows from ``TASK`` and the data set."""
        options, data = cast(mmrl.MMRLOptions, super().options(cfg)), cfg.DATASET
        seen = {"B2N": data.SUBSAMPLE_CLASSES == "base", "FS": True, "CD": data.NAME in SOURCES}
        return replace(options, seen=seen[options.task])

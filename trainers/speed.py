"""Memory limit and compilation of a run, from its config. They change no result beyond rounding."""

import math
from typing import Any

import torch
from yacs.config import CfgNode

from prompting.clip.blocks import compile_functions
from prompting.memory import MemoryPlan, configure_memory, processes
from prompting.methods.base import PromptedCLIP
from prompting.ot.checks import check_choice
from trainers.record.log import logger

DEFAULTS = {
    "MAX_MEMORY_GB": 0.0,  # limit of a run on its device, in 10^9 bytes; 0: none on a CPU, free memory on a GPU
    "COMPILE": "",  # backend of torch.compile for the towers' blocks, such as inductor; empty compiles nothing
}


def configure_speed(model: PromptedCLIP[Any], cfg: CfgNode, device: torch.device | str) -> MemoryPlan | None:
    """Fit a training step into the memory limit, log the estimate, and compile the towers' blocks with a backend.

    Returns:
        The plan of a training step; None for a method that splits its classes in ``forward``.

    Raises:
        ValueError: ``TRAIN.MAX_MEMORY_GB`` is negative, or too small for one class at a time; an unknown backend.
    """
    gigabytes, backend = (cfg.TRAIN.get(key, default) for key, default in DEFAULTS.items())
    if gigabytes < 0:
        raise ValueError(f"TRAIN.MAX_MEMORY_GB is {gigabytes}; allowed: 0 (no limit given) or more")
    if backend:
        check_choice("TRAIN.COMPILE", backend, sorted(torch.compiler.list_backends(exclude_tags=())))
        model.text_encoder.functions = model.image_encoder.functions = compile_functions(backend)
    images = math.ceil(cfg.DATALOADER.TRAIN_X.BATCH_SIZE / processes())
    plan = configure_memory(model, images, int(gigabytes * 1e9), device)
    if plan is not None:
        logger.info(f"Memory of a training step: {plan}")
    return plan

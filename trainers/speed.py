"""How a run fits its machine: memory predicted and kept to, towers compiled. No number of the results depends on it."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from prompting.clip import PromptTokens
from prompting.clip.blocks import compiled_steps
from prompting.learners import Prompts
from prompting.memory import HEADROOM, Prediction, fit, free_bytes, held_bytes, predict, private_bytes, return_freed
from prompting.ot import HierarchicalOT
from prompting.ot.checks import check_choice
from trainers.record.log import logger

DEFAULTS = {
    "MAX_MEMORY_GB": 0.0,  # that a run may hold on a device, in 10^9 bytes; 0 is what it has free
    "COMPILE": "",  # backend of torch.compile for the towers' blocks, such as inductor; empty compiles nothing
}


def fit_machine(model: Any, cfg: Any, device: torch.device | str) -> None:
    """Predict the memory of a training step, log it, and choose what is computed again; compile if asked to.

    Args:
        model: a ``PromptedCLIP`` on its device.
        cfg: a config; where its ``TRAIN`` node lacks the keys of ``DEFAULTS``, those hold.
        device: the model's device.

    Raises:
        ValueError: ``TRAIN.MAX_MEMORY_GB`` is negative, or too little for one class at a time; an unknown backend.
    """
    gigabytes, backend = (cfg.TRAIN.get(key, default) for key, default in DEFAULTS.items())
    if gigabytes < 0:
        raise ValueError(f"TRAIN.MAX_MEMORY_GB is {gigabytes}; allowed: 0 (what is free) or more")
    if backend:
        known = torch.compiler.list_backends(exclude_tags=())
        check_choice("TRAIN.COMPILE", backend, sorted(known))
    images = math.ceil(cfg.DATALOADER.TRAIN_X.BATCH_SIZE / processes())
    prediction = limit_memory(model, images, int(gigabytes * 1e9), device)
    if prediction is not None:
        logger.info(f"Memory of a training step: {prediction}")
    if backend:
        model.text_encoder.steps = model.image_encoder.steps = compiled_steps(backend)


def limit_memory(model: Any, images: int, budget: int, device: torch.device | str) -> Prediction | None:
    """Set how many classes the text tower runs at once, and what the vision tower computes again.

    On a CPU freed memory is returned to the system between two parts of a pass where the next one might not fit into
    the budget.

    Args:
        model: a ``PromptedCLIP``.
        images: B.
        budget: bytes; 0 is what is held and nearly all that is free, or no limit where that is unknown. On a CPU the
            processes that torchrun started on this machine share either.
        device: the model's device.

    Returns:
        What is predicted; None for a model that divides its text side by itself.

    Raises:
        ValueError: the budget is too little for one class at a time.
    """
    if model.chunks_text:
        return None
    with torch.no_grad():
        (tokens, prompts), *others = model.training_text()
    towers = model.text_encoder, model.image_encoder
    beside = sum(predict(*towers, *run, images=0).parts["text"] for run in others)
    held, free = held_bytes(device), free_bytes(device)
    cpu = torch.device(device).type == "cpu"
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if cpu and processes() > 1 else 1
    there = None if free is None else (held or 0) + int(HEADROOM * free / sharing)
    budget //= sharing
    prediction = fit(
        *towers,
        tokens,
        prompts,
        images,
        budget=budget or there,
        strict=budget > 0,
        token_set=getattr(model, "token_set", None),
        constant_tokens=model.constant_tokens,
        head=head_bytes(model, images, tokens, prompts),
        beside=beside,
        held=held,
    )
    whole = prediction.classes_at_once == prediction.classes
    model.text_encoder.classes_at_once = None if whole else prediction.classes_at_once
    model.image_encoder.lean = prediction.lean
    limit = budget or there
    if cpu and limit is not None:  # returning memory takes time: only where the next part might not fit
        most = limit - prediction.adds - ((held or 0) - (private_bytes() or 0))
        model.text_encoder.between = model.image_encoder.between = partial(return_freed, most)
    return prediction


def processes() -> int:
    """Return how many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def head_bytes(model: Any, images: int, tokens: PromptTokens, prompts: Prompts) -> int:
    """Return the working memory of a model's transport: some five floats a token cost it holds at once, and six a cost
    of the prompt level, which are held together."""
    head, token_set = getattr(model, "head", None), getattr(model, "token_set", None)
    if not isinstance(head, HierarchicalOT):
        return 0
    n = max(tokens.ids.shape[0], 0 if prompts.text is None else prompts.text.shape[0])
    m, b = (1, 0) if prompts.visual is None else prompts.visual.shape[:2]
    pairs = images * tokens.ids.shape[1] * n * m
    level = 6 * 4 * pairs * (model.shape.patches if model.transports_patches else 1)
    if token_set is None or not head.uses_tokens:
        return level
    each = (model.shape.patches + b) * int(token_set.sum(-1).max())
    return level + 5 * 4 * min(pairs * each, head.settings.max_elements)

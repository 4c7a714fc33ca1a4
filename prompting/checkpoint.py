"""What of a model is saved, and what of a checkpoint is read: the learned tensors, and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Buffers of class-name embeddings that the CoOp family saves; they belong to the classes of the training run.
CLASS_NAME_BUFFERS = ("token_prefix", "token_suffix", "token_midfix")
# Learned prompts that the family keeps among a tower's weights (VPT, IVLP).
PROMPTS_IN_TOWERS = ("VPT", "VPT_shallow")
# Top-level names under which the family's whole-model checkpoints keep the frozen CLIP.
FROZEN_PARTS = ("image_encoder", "text_encoder", "clip_model", "clip", "logit_scale", "model", "ZS_image_encoder")


def learned_state(model: nn.Module, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return the learned tensors of ``model`` by name: those that require a gradient.

    Args:
        model: any module.
        names: own names to those of released checkpoints, for the tensors whose names differ.
    """
    names = names or {}
    return {names.get(name, name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


@torch.no_grad()
def load_learned(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str = "the checkpoint",
    names: Mapping[str, str] | None = None,
) -> None:
    """Copy the learned tensors of ``model`` from a checkpoint's state dict.

    Whole-model checkpoints are fine: their frozen CLIP and their buffers of class names are skipped. Values are
    converted to each learned tensor's dtype (released files are float16).

    Args:
        model: a model whose learned tensors are those that require a gradient.
        state: names to tensors, with or without the ``module.`` of a parallel run.
        source: what to call the checkpoint in an error, such as its path.
        names: own names to those of the checkpoint, as in ``learned_state``.

    Raises:
        ValueError: a learned tensor is missing or has another shape, or the checkpoint holds learned tensors that
            the model does not have (another depth, number of prompts, method, backbone or class list).
    """
    found = {name[len("module.") :] if name.startswith("module.") else name: value for name, value in state.items()}
    wanted = learned_state(model, names)
    missing = [name for name in wanted if name not in found]
    if missing:
        near = difflib.get_close_matches(missing[0], found, n=1)
        hint = f"; the nearest it has is {near[0]!r}" if near else ""
        raise ValueError(
            f"{source} lacks {len(missing)} of the {len(wanted)} learned tensors, first {missing[0]!r}{hint} "
            "(was it trained with another method, depth or number of prompts?)"
        )
    extra = [name for name in found if name not in wanted and not _is_ignored(name)]
    if extra:
        raise ValueError(
            f"{source} holds {len(extra)} learned tensors that this model does not have, first {extra[0]!r} "
            "(was it trained with another method or a greater depth?)"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{source} has {name!r} of shape {tuple(found[name].shape)}, this model needs {tuple(tensor.shape)} "
                "(was it trained with another number of prompts, backbone or class list?)"
            )
    for name, tensor in wanted.items():
        tensor.copy_(found[name])


def _is_ignored(name: str) -> bool:
    first, last = name.split(".")[0], name.split(".")[-1]
    return last in CLASS_NAME_BUFFERS or (first in FROZEN_PARTS and last not in PROMPTS_IN_TOWERS)

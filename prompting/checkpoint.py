"""Checkpoints: only the learned tensors of a model are saved and loaded."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from prompting.ot.checks import did_you_mean, first_non_finite
from prompting.torch_files import read_pickled

# Buffers of class-name embeddings in checkpoints of the CoOp family; they depend on the classes of the training run.
CLASS_NAME_BUFFERS = ("token_prefix", "token_suffix", "token_midfix")
# Names of learned prompts inside a tower (VPT, IVLP).
PROMPTS_IN_TOWERS = ("VPT", "VPT_shallow")
# Top-level names of the frozen CLIP in whole-model checkpoints of the family.
FROZEN_PARTS = ("image_encoder", "text_encoder", "clip_model", "clip", "logit_scale", "model")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # dtypes of learned tensors in a file
# Names of a second, frozen CLIP in such checkpoints, at any level: of PromptSRC and CoPrompt.
TEACHERS = ("ZS_image_encoder", "model_distill")


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint file of any version of torch or Dassl, in CPU memory.

    No code in the file is run, and damage is found where the file carries checksums (``prompting.torch_files``). A file
    of this project's engine is also compared with the SHA-256 of its tensors.

    Args:
        path: a file in the format of Dassl's trainers.

    Returns:
        Names to tensors, unchanged; a module's extra state (``get_extra_state``) is plain values.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, contains objects of another kind, or has no state dict.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = read_pickled(path)
    except ValueError as error:
        raise ValueError(f'Unable to load checkpoint from "{path}": {error}') from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} is no checkpoint of a run: it holds {found or 'nothing'}")
    state = content["state_dict"]
    kinds = {type(state).__name__}
    if isinstance(state, Mapping):
        state = {str(name): value for name, value in state.items()}
        kinds = {
            type(v).__name__ for k, v in state.items() if not (isinstance(v, Tensor) or k.endswith("_extra_state"))
        }
    if kinds:
        raise ValueError(
            f"{path} is no checkpoint of a run: its state_dict holds {', '.join(sorted(kinds))}, not tensors"
        )
    hashes = content.get("sha256")
    if isinstance(hashes, Mapping) and hashes.get("state_dict") != tensor_hash(state):
        reason = "it is damaged or was edited (the SHA-256 of its tensors is wrong)"
        raise ValueError(f'Unable to load checkpoint from "{path}": {reason}')
    return state


def check_classes(path: str | os.PathLike[str], classnames: Sequence[str]) -> None:
    """Raise ValueError if the class names stored in a checkpoint differ from ``classnames``."""
    trainer = read_pickled(path).get("trainer")
    trained = trainer.get("classnames") if isinstance(trainer, Mapping) else None
    if trained and trained != list(classnames):
        found = f"{trained!r:.200}, and the run has {list(classnames)!r:.200}"
        raise ValueError(f"{path} was trained on the classes {found}")


def tensor_hash(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a state dict: names, shapes, dtypes and values, in the order of names."""
    digest = hashlib.sha256()
    leaves, _ = tree_flatten_with_path(dict(state))
    named = [(".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path), x) for path, x in leaves]
    for name, value in sorted(named, key=itemgetter(0)):
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        else:  # a plain value of an extra state
            digest.update(f"{name} {value!r}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def learned_state(model: nn.Module, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return the learned tensors of ``model``, those that require a gradient, by name.

    Args:
        model: any module.
        names: names in ``model`` to names in released checkpoints, for the tensors whose names differ.
    """
    names = names or {}
    return {names.get(name, name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


@torch.no_grad()
def load_learned(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str = "the checkpoint",
    names: Mapping[str, str] | None = None,
    unused: Sequence[str] = (),
) -> None:
    """Copy the learned tensors of ``model`` from a checkpoint's state dict, after the extra states of its modules.

    Whole-model checkpoints are allowed: their frozen CLIP and class-name buffers are skipped. Values are converted
    to the dtype of each learned tensor (released files are float16).

    Args:
        model: a model whose learned tensors are those that require a gradient.
        state: names to tensors, with or without the prefix ``module.`` of a parallel run.
        source: name of the checkpoint in error messages, such as its path.
        names: names in ``model`` to names in the checkpoint, as in ``learned_state``.
        unused: names of modules and tensors in released checkpoints of the method that no computation reads.

    Raises:
        ValueError: a learned tensor is missing, is in it twice, or has another shape or no dtype of floating point,
            or the checkpoint holds learned tensors that the model does not have (another depth, number of prompts,
            method, backbone or class list); or one holds NaN or infinity, or values beyond the model's dtype.
    """
    found = {name.removeprefix("module."): value for name, value in state.items()}
    if len(found) < len(state):
        twice = next(name for name in state if f"module.{name}" in state)
        raise ValueError(f"{source} holds {twice!r} twice, with and without the prefix 'module.'")
    for prefix, module in model.named_modules():
        key = f"{prefix}.".lstrip(".") + "_extra_state"
        if key in found and type(module).set_extra_state is not nn.Module.set_extra_state:
            module.set_extra_state(found[key])
    wanted = learned_state(model, names)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} of the {len(wanted)} learned tensors, first {missing[0]!r}"
            f"{did_you_mean(missing[0], found)} "
            "(was it trained with another method, depth or number of prompts?)"
        )
    extra = [name for name in found if name not in wanted and not _is_ignored(name, unused)]
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
        if found[name].dtype not in FLOATS:
            raise ValueError(f"{source} has {name!r} of {found[name].dtype}; allowed: {', '.join(map(str, FLOATS))}")
    values = {name: found[name].to(tensor.dtype) for name, tensor in wanted.items()}
    if problem := first_non_finite(values.items()):
        raise ValueError(f"{source} comes from a training that failed: {problem}; load an earlier epoch")
    for name, tensor in wanted.items():
        tensor.copy_(values[name])


def _is_ignored(name: str, unused: Sequence[str] = ()) -> bool:
    parts = name.split(".")
    if any(part in (*TEACHERS, *unused) for part in parts) or parts[-1] in (*CLASS_NAME_BUFFERS, "_extra_state"):
        return True
    return parts[0] in FROZEN_PARTS and parts[-1] not in PROMPTS_IN_TOWERS

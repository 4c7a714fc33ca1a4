"""Checkpoints: only the learned tensors of a model are saved and loaded."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import torch
from torch import Tensor, nn

from prompting.ot.checks import did_you_mean, first_non_finite

# Buffers of class-name embeddings in checkpoints of the CoOp family; they depend on the classes of the training run.
CLASS_NAME_BUFFERS = ("token_prefix", "token_suffix", "token_midfix")
# Learned prompts that the family stores inside a tower (VPT, IVLP).
PROMPTS_IN_TOWERS = ("VPT", "VPT_shallow")
# Top-level names of the frozen CLIP in whole-model checkpoints of the family.
FROZEN_PARTS = ("image_encoder", "text_encoder", "clip_model", "clip", "logit_scale", "model")
# A second, frozen CLIP in such checkpoints, at any level: PromptSRC's prompt_learner.ZS_image_encoder, CoPrompt's.
TEACHERS = ("ZS_image_encoder", "model_distill")
# Modules of pickled optimizers and schedulers, which files of the family contain besides tensors and plain values.
OBJECTS = ("torch.optim.", "dassl.optim.")
TENSORS = ("torch", "torch._utils", "collections", "__builtin__")  # modules that every pickle of tensors imports


class _Inert:
    """Placeholder for a pickled object that is not needed: accepts any arguments and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass


def _dict(*args: Any) -> dict[Any, Any]:
    """Replace ``collections.defaultdict``, the type of an optimizer's state."""
    return {}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint file of any version of torch or Dassl, in CPU memory.

    No code in the file is run: ``torch.load(weights_only=True)`` reads it, with inert placeholder classes for the
    optimizers and schedulers that Dassl pickles.

    Args:
        path: a file in the format of Dassl's trainers.

    Returns:
        Names to tensors, unchanged.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, contains objects of another kind, or has no state dict.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    known, wanted = list(torch.serialization.get_safe_globals()), []  # torch 2.4 returns its live list
    try:
        wanted = _imports(path)
        stand_ins = [_stand_in(*names) for names in wanted if names[0].startswith(OBJECTS)]
        torch.serialization.add_safe_globals([dict, _named(_dict, "collections", "defaultdict"), *stand_ins])
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in anything, an IndexError among others
        objects = [".".join(names) for names in wanted if not names[0].startswith(OBJECTS) and names[0] not in TENSORS]
        what = f"it is damaged, or holds what is never read: {', '.join(objects)}" if objects else "it is damaged"
        raise ValueError(f'Unable to load checkpoint from "{path}": {what}') from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} is no checkpoint of a run: it holds {found or 'nothing'}")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        kinds = {type(v).__name__ for v in (state.values() if isinstance(state, Mapping) else [state])} - {"Tensor"}
        raise ValueError(
            f"{path} is no checkpoint of a run: its state_dict holds {', '.join(sorted(kinds))}, not tensors"
        )
    return {str(name): value for name, value in state.items()}


def _imports(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Return (module, name) of every import of a pickled file, without unpickling it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = _globals(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    else:  # torch's format before 1.6: a magic number, a version, a system, the content, the names of its storages
        with open(path, "rb") as file:
            found = set().union(*(_globals(file) for _ in range(5)))
    return [(module, name) for module, _, name in (line.partition(" ") for line in sorted(found))]


def _globals(pickled: bytes | IO[bytes]) -> set[str]:
    """Return "<module> <name>" of all imports of the first pickle in ``pickled``; a file is read up to its end."""
    return {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}


def _stand_in(module: str, name: str) -> Any:
    return _named(type(name, (_Inert,), {}), module, name)


def _named(thing: Any, module: str, name: str) -> Any:
    # torch 2.4 looks a thing up by its plain name, later ones by the qualified one.
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


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
    """Copy the learned tensors of ``model`` from a checkpoint's state dict.

    Whole-model checkpoints are allowed: their frozen CLIP and class-name buffers are skipped. Values are converted
    to the dtype of each learned tensor (released files are float16).

    Args:
        model: a model whose learned tensors are those that require a gradient.
        state: names to tensors, with or without the ``module.`` of a parallel run.
        source: name of the checkpoint in error messages, such as its path.
        names: names in ``model`` to names in the checkpoint, as in ``learned_state``.
        unused: names of modules and tensors that released checkpoints of the method hold without any use.

    Raises:
        ValueError: a learned tensor is missing or has another shape, or the checkpoint holds learned tensors that
            the model does not have (another depth, number of prompts, method, backbone or class list); or one holds NaN
            or infinity.
    """
    found = {name[len("module.") :] if name.startswith("module.") else name: value for name, value in state.items()}
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
    if problem := first_non_finite((name, found[name]) for name in wanted):
        raise ValueError(f"{source} comes from a training that failed: {problem}; load an earlier epoch")
    for name, tensor in wanted.items():
        tensor.copy_(found[name])


def _is_ignored(name: str, unused: Sequence[str] = ()) -> bool:
    parts = name.split(".")
    if any(part in (*TEACHERS, *unused) for part in parts) or parts[-1] in (*CLASS_NAME_BUFFERS, "_extra_state"):
        return True
    return parts[0] in FROZEN_PARTS and parts[-1] not in PROMPTS_IN_TOWERS

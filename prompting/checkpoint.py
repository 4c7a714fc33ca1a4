"""What of a model is saved, and what of a checkpoint is read: the learned tensors, and nothing else."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from prompting.ot.checks import did_you_mean

# Buffers of class-name embeddings that the CoOp family saves; they belong to the classes of the training run.
CLASS_NAME_BUFFERS = ("token_prefix", "token_suffix", "token_midfix")
# Learned prompts that the family keeps among a tower's weights (VPT, IVLP).
PROMPTS_IN_TOWERS = ("VPT", "VPT_shallow")
# Top-level names under which the family's whole-model checkpoints keep the frozen CLIP.
FROZEN_PARTS = ("image_encoder", "text_encoder", "clip_model", "clip", "logit_scale", "model", "ZS_image_encoder")
# Modules of the optimizers and schedulers that the family's files hold as objects beside tensors and plain values.
OBJECTS = ("torch.optim.", "dassl.optim.")
TENSORS = ("torch", "torch._utils", "collections", "__builtin__")  # modules that every file of tensors names


class _Inert:
    """Stands for an object that is not needed: takes whatever its class would take, and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass


def _dict(*args: Any) -> dict[Any, Any]:
    """Stand for ``collections.defaultdict``, in which optimizers keep their state."""
    return {}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint file, whichever version of torch or Dassl wrote it, into CPU memory.

    No code that the file brings is run: torch's reader of weights reads it, and inert classes stand for the optimizers
    and schedulers that Dassl pickles beside them.

    Args:
        path: a file as Dassl's trainers save it.

    Returns:
        Names to tensors, as they stand in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds objects of any other kind, or no state dict.
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
    return content["state_dict"]


def _imports(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Return the module and the name of everything that reading a file would import, without reading it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = _globals(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    else:  # torch's format before 1.6: a magic number, a version, a system, the content, the names of its storages
        with open(path, "rb") as file:
            found = set().union(*(_globals(file) for _ in range(5)))
    return [(module, name) for module, _, name in (line.partition(" ") for line in sorted(found))]


def _globals(pickled: bytes | IO[bytes]) -> set[str]:
    """Return "<module> <name>" of all imports of the pickle at the start of ``pickled``; a file is left behind it."""
    return {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}


def _stand_in(module: str, name: str) -> Any:
    return _named(type(name, (_Inert,), {}), module, name)


def _named(thing: Any, module: str, name: str) -> Any:
    # torch 2.4 looks a thing up by its plain name, later ones by the qualified one.
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


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
        raise ValueError(
            f"{source} lacks {len(missing)} of the {len(wanted)} learned tensors, first {missing[0]!r}"
            f"{did_you_mean(missing[0], found)} "
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

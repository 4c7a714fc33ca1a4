"""Checkpoint files: written atomically, read without running code from the file."""

import contextlib
import hashlib
import io
import logging
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .finite import first_non_finite, leaves, named_tensors
from .tools import mkdir_if_missing, write_atomically

logger = logging.getLogger(__name__)
LARGEST_VIEW = 2**28  # bytes of a tensor that repeats its stored values, by strides of 0

BEST_NAME = "model-best.pth.tar"
LAST_NAME = "model-last.pth.tar"  # after an epoch that TRAIN.CHECKPOINT_FREQ does not keep; the next save replaces it
POINTER_NAME = "checkpoint"


def epoch_name(epoch: int | str) -> str:
    """Return the file name of the checkpoint after ``epoch`` epochs."""
    return f"model.pth.tar-{epoch}"


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write a checkpoint, and its file name into the file ``checkpoint``; the folder is made if it is missing.

    ``state`` has at least ``state_dict`` and ``epoch``, the number of finished epochs; the file also holds, as
    ``sha256``, a hash of each of its parts. ``is_best`` also copies it to ``model-best.pth.tar``;
    ``remove_module_from_keys`` drops the prefix ``module.`` from the names in ``state_dict``; ``model_name`` is the
    file name, ``model.pth.tar-<epoch>`` if empty. A temporary ``model-last.pth.tar`` is removed.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state_dict = OrderedDict((key.removeprefix("module."), value) for key, value in state["state_dict"].items())
        state = {**state, "state_dict": state_dict}
    path = os.path.join(save_dir, model_name or epoch_name(state["epoch"]))
    content = io.BytesIO()
    torch.save({**state, "sha256": {key: content_hash(value) for key, value in state.items()}}, content)
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(content.getbuffer()))
    if os.path.basename(path) != LAST_NAME:
        logger.info("Checkpoint saved to %s", path)
    pointer, line = Path(save_dir, POINTER_NAME), f"{os.path.basename(path)}\n".encode()
    if not pointer.is_file() or pointer.read_bytes() != line:
        write_atomically(str(pointer), lambda temporary: Path(temporary).write_bytes(line))
    if is_best:
        best = os.path.join(save_dir, BEST_NAME)
        write_atomically(best, lambda temporary: Path(temporary).write_bytes(content.getbuffer()))
        logger.info('Best checkpoint saved to "%s"', best)
    drop_temporary(save_dir)


def drop_temporary(folder: str) -> None:
    """Remove ``model-last.pth.tar`` unless the file ``checkpoint`` names it; a killed process may have left it."""
    pointer = Path(folder, POINTER_NAME)
    if pointer.is_file() and pointer.read_bytes().strip() != LAST_NAME.encode():
        Path(folder, LAST_NAME).unlink(missing_ok=True)


def content_hash(content: Any) -> str:
    """Return the SHA-256 of tensors and plain values in nested dictionaries and lists.

    Of a dictionary of tensors, it is the hash of their names, shapes, dtypes and values, in the order of names.
    """
    digest = hashlib.sha256()
    for name, value in sorted(leaves(content), key=itemgetter(0)):
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            digest.update(f"{name} {value!r}\n".encode(errors="surrogatepass"))
        else:  # only the type: the value of another object may print differently once it is read
            digest.update(f"{name} {type(value).__name__}\n".encode())
    return digest.hexdigest()


def _stub(module: str, name: str) -> type:
    """Return a class that replaces one of a scheduler or optimizer pickled by Dassl: its objects have no methods."""
    return type(name, (), {"__module__": module, "__qualname__": name})


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}


# Replaces collections.defaultdict; torch 2.4 compares __name__, later versions __qualname__.
_plain_dict.__module__, _plain_dict.__name__, _plain_dict.__qualname__ = "collections", "defaultdict", "defaultdict"

# In Dassl's checkpoints, the state of a warm-up scheduler holds its successor, and that the optimizer, as objects.
_ALLOWED: list[Any] = [
    *[_stub("torch.optim.lr_scheduler", name) for name in ("StepLR", "MultiStepLR", "CosineAnnealingLR")],
    *[_stub(f"torch.optim.{name.lower()}", name) for name in ("SGD", "Adam", "AdamW", "RMSprop", "RAdam")],
    _stub("dassl.optim.radam", "RAdam"),
    _plain_dict,
    dict,
]


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """Read a checkpoint into CPU memory, as the dictionary that was saved.

    Only tensors and plain values are read; schedulers and optimizers in Dassl's files become objects without methods.
    The checksums of a file in zip format and the hashes that ``save_checkpoint`` adds are compared with the content.

    Raises:
        ValueError: ``fpath`` is None, or the file is damaged or holds objects of another class.
        FileNotFoundError: the file does not exist.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'File is not found at "{fpath}"')
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        _check_zip(fpath)
        content = torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # keep the reason in torch's message, not its advice to load the file unsafely
        reason = re.split("trusted source. |WeightsUnpickler error: ", " ".join(str(error).split()))[-1]
        reason = re.split(" Please | Check the doc", reason)[0] or type(error).__name__
        reason = "it is damaged" if "weights_only" in reason else reason[:300]
        raise ValueError(f'Unable to load checkpoint from "{fpath}": {reason}') from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    for name, tensor in named_tensors(content):
        if kind := _kind(tensor):
            raise ValueError(f'Unable to load checkpoint from "{fpath}": {name} is {kind}')
    hashes = content.pop("sha256", None) if isinstance(content, dict) else None
    for part, expected in hashes.items() if isinstance(hashes, dict) else ():
        if part not in content or content_hash(content[part]) != expected:
            reason = f"it is damaged or was edited (the SHA-256 of {part!r} is wrong)"
            raise ValueError(f'Unable to load checkpoint from "{fpath}": {reason}')
    return content


def _kind(tensor: torch.Tensor) -> str:
    """Return what a tensor is that cannot be used; "" for a plain one."""
    if tensor.is_meta:
        return "a tensor without values"
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        return "a sparse, quantized or nested tensor"
    size = tensor.numel() * tensor.itemsize
    repeats = size > max(LARGEST_VIEW, tensor.untyped_storage().nbytes())  # a small file would fill the memory
    return f"a view of {tuple(tensor.shape)} that repeats its values" if repeats else ""


def _check_zip(path: str) -> None:
    """Raise BadZipFile if the checksums in a zip file, which torch ignores, are wrong; ValueError for TorchScript."""
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # torch's other format has no checksums
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a TorchScript archive")  # torch 2.5 and earlier would run it
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"it is damaged (the checksum of {damaged} in it is wrong)")


def read_latest(fdir: str) -> tuple[str, dict[str, Any]]:
    """Return path and content of the checkpoint that a folder's file ``checkpoint`` names.

    Raises:
        FileNotFoundError: the folder has no such file, or the file that it names does not exist.
        ValueError: the checkpoint is damaged. Both errors name the newest whole checkpoint in the folder.
    """
    pointer = os.path.join(fdir, POINTER_NAME)
    if not os.path.isfile(pointer):
        raise FileNotFoundError(f'No checkpoint to resume from: there is no file "{pointer}"')
    path = os.path.join(fdir, Path(pointer).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip())
    logger.info('Loading checkpoint from "%s"', path)
    try:
        return path, load_checkpoint(path)
    except (ValueError, FileNotFoundError) as error:
        whole = _newest_whole(fdir)
        advice = f"the newest whole checkpoint there is {whole}: to resume from it, write its name into {pointer}"
        raise type(error)(f"{error}; {advice if whole else 'no checkpoint in that folder is whole'}") from error


def _newest_whole(folder: str) -> str:
    """Return the name of the newest checkpoint in a folder that can be read; "" if there is none."""
    files = (path for path in Path(folder).glob("model*") if path.is_file())
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):
            load_checkpoint(str(path))
            return path.name
    return ""


def check_content(path: str, checkpoint: Any) -> None:
    """Raise ValueError unless a file's content is a checkpoint: finite tensors by name, and a number of epochs."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'"{path}" is no checkpoint: it holds a {type(checkpoint).__name__}')
    state, epoch = checkpoint.get("state_dict"), checkpoint.get("epoch")
    if isinstance(state, Mapping):  # a module's extra state (torch's get_extra_state) may be any plain values
        state = {key: value for key, value in state.items() if not str(key).endswith("_extra_state")}
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        values = state.values() if isinstance(state, Mapping) else []
        kinds = ", ".join([type(state).__name__, *sorted({type(value).__name__ for value in values})])
        raise ValueError(f'"{path}" is no checkpoint: "state_dict" holds {kinds}; it should hold tensors by name')
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f'"{path}" is no checkpoint: "epoch" is {epoch!r}; it should be the number of finished epochs')
    if problem := first_non_finite(state.items()):
        raise ValueError(f'"{path}" comes from a training that failed: {problem}; load an earlier epoch')


def restore(
    path: str, checkpoint: dict[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> int:
    """Load a checkpoint into a model and, where given and saved, its optimizer and scheduler; return its epochs.

    Raises:
        ValueError: names or shapes do not match the model.
    """
    check_content(path, checkpoint)
    for name, wanted in model.state_dict().items():
        found = checkpoint["state_dict"].get(name)
        tensors = isinstance(found, torch.Tensor) and isinstance(wanted, torch.Tensor)
        if tensors and found.is_floating_point() != wanted.is_floating_point():
            raise ValueError(f'The checkpoint "{path}" is of another model: {name} is of {found.dtype}')
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:600]
        raise ValueError(f'The checkpoint "{path}" is of another model: {reason}') from error
    logger.info("Loaded model weights")
    # scheduler last: it sets the learning rate from its settings, not from those of the saved run
    for name, target in (("optimizer", optimizer), ("scheduler", scheduler)):
        if target is not None and checkpoint.get(name) is not None:
            try:
                target.load_state_dict(checkpoint[name])
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise ValueError(
                    f'The {name} state in "{path}" does not fit: {type(error).__name__}: {error}'
                ) from error
            logger.info("Loaded %s", name)
    logger.info("Previous epoch: %s", checkpoint["epoch"])
    return int(checkpoint["epoch"])


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the last checkpoint in a model's folder, see :func:`restore`; return the number of finished epochs."""
    return restore(*read_latest(fdir), model, optimizer, scheduler)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load the weights of a checkpoint or state dict that fit the model by name and shape; log the other names."""
    checkpoint: Any = load_checkpoint(weight_path)
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(state, Mapping):
        raise ValueError(f'"{weight_path}" holds no weights: a {type(state).__name__} instead of tensors by name')
    saved = {str(key).removeprefix("module."): v for key, v in state.items()}
    current = model.state_dict()
    matching = {k: v for k, v in saved.items() if isinstance(v, torch.Tensor) and _fits(v, current.get(k))}
    model.load_state_dict({**current, **matching})
    if not matching:
        warnings.warn(f"Cannot load {weight_path} (check the key names manually)", stacklevel=2)
        return
    logger.info("Successfully loaded pretrained weights from %s", weight_path)
    discarded = [k for k in saved if k not in matching]
    if discarded:
        logger.info("Layers discarded due to unmatched keys or size: %s", discarded)


def _fits(value: torch.Tensor, wanted: Any) -> bool:
    kind = value.is_floating_point()
    return isinstance(wanted, torch.Tensor) and wanted.shape == value.shape and wanted.is_floating_point() == kind

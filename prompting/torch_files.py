"""Read files of ``torch.save`` without running code from them, and check them for damage."""

import os
import pickletools
import zipfile
from typing import IO, Any

import torch
from torch import Tensor

# Modules of pickled optimizers and schedulers, which checkpoints of Dassl contain besides tensors and plain values.
OBJECTS = ("torch.optim.", "dassl.optim.")
TENSORS = ("torch", "torch._utils", "collections", "__builtin__")  # modules that every pickle of tensors imports
LARGEST_VIEW = 2**28  # bytes of a tensor that repeats its stored values, by strides of 0


def check_crc(path: str | os.PathLike[str]) -> None:
    """Compare the content of a zip file with its checksums, which torch ignores; other formats have none.

    Raises:
        zipfile.BadZipFile: the file is damaged.
    """
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")


def unreadable(error: Exception, never: str = "") -> ValueError:
    """Return an error that says why a file cannot be read; ``never`` names the imports that are not allowed.

    torch's message is not shown: it advises to load the file unsafely.
    """
    if never:
        return ValueError(f"it is damaged, or holds objects that are never read: {never}")
    if isinstance(error, OSError):
        return ValueError(f"it cannot be read ({error.strerror or error})")
    if isinstance(error, MemoryError):
        return ValueError("it is damaged, or larger than the free memory")
    return ValueError(f"it is damaged ({error})" if isinstance(error, zipfile.BadZipFile) else "it is damaged")


class _Inert:
    """Placeholder for a pickled object that is not needed: accepts any arguments and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass


def read_pickled(path: str | os.PathLike[str], objects: bool = True) -> Any:
    """Return the content of a file of ``torch.save``, of any version of torch, in CPU memory.

    No code in the file is run: ``torch.load(weights_only=True)`` reads it.

    Args:
        path: the file; the zip format (torch 1.6 and later) is checked by its checksums.
        objects: read the optimizers and schedulers that Dassl pickles, as inert placeholders.

    Raises:
        ValueError: the file is damaged, or contains other objects, which the message names.
    """
    known, wanted = list(torch.serialization.get_safe_globals()), []  # torch 2.4 returns its live list
    if is_torchscript(path):  # torch 2.5 and earlier would run it
        raise ValueError("it is a TorchScript archive")
    try:
        check_crc(path)
        wanted = _imports(path)
        if objects:
            stand_ins = [_named(type(name, (_Inert,), {}), m, name) for m, name in wanted if m.startswith(OBJECTS)]
            states = _named(lambda *_: {}, "collections", "defaultdict")  # of optimizers; their values are not needed
            torch.serialization.add_safe_globals([dict, states, *stand_ins])
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in anything, an IndexError among others
        never = [f"{m}.{name}" for m, name in wanted if m not in TENSORS and not (objects and m.startswith(OBJECTS))]
        raise unreadable(error, ", ".join(never)) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)
    if wrong := _wrong_tensor(content):
        raise ValueError(f"its entry {wrong}")
    return content


def _wrong_tensor(content: Any) -> str:
    """Return the name of a tensor in nested containers that is not plain, and why; "" if all are."""
    seen, todo = set[int](), [("", content)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, Tensor):
            if kind := _kind(value):
                return f"{name} is {kind}"
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:  # one that is there twice is read once
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{name}.{key}".lstrip("."), part) for key, part in parts]
    return ""


def _kind(tensor: Tensor) -> str:
    """Return what a tensor is that cannot be used; "" for a plain one."""
    if tensor.is_meta:
        return "a tensor without values"
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        return "a sparse, quantized or nested tensor"
    size = tensor.numel() * tensor.itemsize
    repeats = size > max(LARGEST_VIEW, tensor.untyped_storage().nbytes())  # a small file would fill the memory
    return f"a view of {tuple(tensor.shape)} that repeats its values" if repeats else ""


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


def _named(thing: Any, module: str, name: str) -> Any:
    # torch 2.4 looks a thing up by its plain name, later ones by the qualified one.
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a TorchScript archive: a zip file with code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except Exception:  # not a zip file, or a damaged one
        return False

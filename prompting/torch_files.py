"""Read files of ``torch.save`` and ``torch.jit.save`` without running code from them, and check them for damage."""

import math
import os
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from typing import IO, Any

import torch
from torch import Tensor

# Modules of pickled optimizers and schedulers, which checkpoints of Dassl contain besides tensors and plain values.
OBJECTS = ("torch.optim.", "dassl.optim.")
TENSORS = ("torch", "torch._utils", "collections", "__builtin__")  # modules that every pickle of tensors imports
DTYPES = {
    "Half": torch.float16, "Float": torch.float32, "Double": torch.float64, "BFloat16": torch.bfloat16,
    "Bool": torch.bool, "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
    "Long": torch.int64,
}  # fmt: skip
MOST_MODULES = 100_000
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


def _unreadable(error: Exception, never: str = "") -> ValueError:
    # Never show torch's message, which advises to load the file unsafely.
    if never:
        return ValueError(f"it is damaged, or holds objects that are never read: {never}")
    if isinstance(error, OSError):
        return ValueError(f"it cannot be read ({error.strerror or error})")
    if isinstance(error, MemoryError):
        return ValueError("it is damaged, or larger than the free memory")
    return ValueError(f"it is damaged ({error})" if isinstance(error, zipfile.BadZipFile) else "it is damaged")


# ---- files of torch.save


class _Inert:
    """Placeholder for a pickled object that is not needed: accepts any arguments and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass


def _dict(*args: Any) -> dict[Any, Any]:
    """Replace ``collections.defaultdict``, the type of an optimizer's state."""
    return {}


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
            torch.serialization.add_safe_globals([dict, _named(_dict, "collections", "defaultdict"), *stand_ins])
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in anything, an IndexError among others
        never = [f"{m}.{name}" for m, name in wanted if m not in TENSORS and not (objects and m.startswith(OBJECTS))]
        raise _unreadable(error, ", ".join(never)) from error
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


# ---- TorchScript archives


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a TorchScript archive: a zip file with code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except Exception:  # not a zip file, or a damaged one
        return False


def read_torchscript(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of ``torch.jit.load(path).state_dict()`` without running the archive's code.

    The pickle of the module tree is read with an allow-list: modules become inert objects, and only tensors and plain
    values are created. The source of each module's class tells which tensors are parameters and buffers.

    Raises:
        ValueError: the archive is damaged, or contains other objects, which the message names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reader = _ModuleReader(archive)
            return reader.state_dict(reader.load())
    except _NeverRead as error:
        raise _unreadable(error, str(error)) from error
    except Exception as error:  # a damaged file can end in anything
        raise _unreadable(error) from error


class _NeverRead(pickle.UnpicklingError):
    """An import that is not in the allow-list."""


class _Module:
    """A module of the archive, or another object of one of its classes: its attributes, and no methods."""

    __slots__ = ("attributes",)
    class_name = ""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _ModuleReader(pickle.Unpickler):
    """Reads the module tree of an open TorchScript archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        self.archive = archive
        self.storages: dict[str, Tensor] = {}
        self.top = next(name for name in names if re.fullmatch("[^/]+/data.pkl", name))[: -len("data.pkl")]
        if f"{self.top}byteorder" in names and archive.read(f"{self.top}byteorder") != b"little":
            raise ValueError("its byte order is not little")
        self.saved = dict(found for name in names if name.endswith(".py") for found in self._saved_names(name))
        super().__init__(archive.open(f"{self.top}data.pkl"))

    def _saved_names(self, file: str) -> list[tuple[str, list[str]]]:
        """Return (class, names of its parameters and buffers) for each class of a source file."""
        module = file.removeprefix(f"{self.top}code/")[: -len(".py")].replace("/", ".")
        source = self.archive.read(file).decode()
        found = []
        for name, body in re.findall(r"^class (\w+)\(Module\):\n((?:[ \t].*\n|\n)*)", source + "\n", re.MULTILINE):
            lists = re.findall(r"^\s+__(?:parameters|buffers)__ = \[(.*)\]", body, re.MULTILINE)
            if len(lists) == 2:  # all are saved by versions of torch that write no list of buffers
                found.append((f"{module}.{name}", re.findall(r'"([^"]*)"', " ".join(lists))))
        return found

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type(name, (_Module,), {"__slots__": (), "class_name": f"{module}.{name}"})
        if module == "torch" and name.endswith("Storage") and name.removesuffix("Storage") in DTYPES:
            return DTYPES[name.removesuffix("Storage")]
        known = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "collections.OrderedDict": OrderedDict,
            **{f"torch.jit._pickle.build_{kind}list": list for kind in ("int", "double", "bool", "tensor")},
        }
        if f"{module}.{name}" not in known:
            raise _NeverRead(f"{module}.{name}")
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise ValueError(f"it refers to a {kind}")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.top}data/{key}"))  # zipfile compares the checksum
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"{key} has {len(content)} bytes")
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]

    def state_dict(self, root: Any) -> dict[str, Tensor]:
        """Return the parameters and buffers below a module, by name."""
        state: dict[str, Tensor] = {}
        waiting, seen = [("", root)], 0
        while waiting:
            prefix, module = waiting.pop()
            seen += 1
            if not isinstance(module, _Module) or seen > MOST_MODULES:
                raise ValueError("it holds no tree of modules")
            attributes = getattr(module, "attributes", {})
            for name in self.saved.get(module.class_name, list(attributes)):
                if isinstance(attributes.get(name), Tensor):
                    state[prefix + name] = attributes[name]
            children = [(f"{prefix}{name}.", value) for name, value in attributes.items() if isinstance(value, _Module)]
            waiting += reversed(children)
        return state


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Return a view of a storage; torch raises an error if it does not fit."""
    if math.prod(size) > storage.numel():  # strides of 0 would make a large tensor out of a small file
        raise ValueError(f"a tensor of size {size} does not fit into {storage.numel()} values")
    return storage.as_strided(size, stride, offset)

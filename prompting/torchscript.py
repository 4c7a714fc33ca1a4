"""Read TorchScript archives, the files of ``torch.jit.save``, without running code from them."""

import math
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from prompting.torch_files import unreadable

DTYPES = {
    "Half": torch.float16, "Float": torch.float32, "Double": torch.float64, "BFloat16": torch.bfloat16,
    "Bool": torch.bool, "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
    "Long": torch.int64,
}  # fmt: skip
MOST_MODULES = 100_000


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
        raise unreadable(error, str(error)) from error
    except Exception as error:  # a damaged file can end in anything
        raise unreadable(error) from error


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

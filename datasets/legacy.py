"""Few-shot draws that CoOp left as pickles, read without running what a pickle may hold.

CoOp keeps ``{"train": [Datum, ...], "val": [...]}`` in ``split_fewshot/shot_{K}-seed_{S}.pkl``, with the absolute paths
of the machine that drew it.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Container
from pathlib import Path
from typing import IO, Any, NamedTuple

DATUM = ("dassl.data.datasets.base_dataset", "Datum")
BUILTINS = {"list": list, "dict": dict, "str": str, "int": int}


class Record(NamedTuple):
    """What a pickled Datum says; the path is another machine's."""

    path: str
    label: int
    classname: str


class _Unpickler(pickle.Unpickler):
    """Knows a Datum, and lists, dictionaries, text and whole numbers; refuses every other name."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        # an empty class for each file: a pickle can change the attributes of the class it names
        self.datum = type("PickledDatum", (), {})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == DATUM:
            return self.datum
        if module in ("builtins", "__builtin__") and name in BUILTINS:
            return BUILTINS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_pickled_draw(path: Path) -> dict[str, list[Record]]:
    """Return the lists of a CoOp few-shot pickle, by name ("train", and "val" but for ImageNet).

    Raises:
        ValueError: if the file names anything but ``dassl.data.datasets.base_dataset.Datum``, list, dict, str and int,
            or is not a dictionary of lists of those.
    """
    with open(path, "rb") as file:
        reader = _Unpickler(file)
        try:
            content = reader.load()
        except Exception as error:  # a damaged pickle can raise anything
            words = " ".join(str(error).split()) or type(error).__name__
            allowed = "Datum, list, dict, str, int"
            raise ValueError(f"few-shot pickle {path} is refused: {words}; allowed: {allowed}") from None
    if not isinstance(content, dict) or not all(isinstance(part, list) for part in content.values()):
        raise ValueError(f"few-shot pickle {path} does not hold a dictionary of lists; remove it")
    return {str(name): [_record(item, reader.datum, path) for item in part] for name, part in content.items()}


def _record(item: object, datum: type, path: Path) -> Record:
    if isinstance(item, datum):
        found = vars(item)
        record = Record(found.get("_impath"), found.get("_label"), found.get("_classname"))  # type: ignore[arg-type]
        if [type(value) for value in record] == [str, int, str]:
            return record
    raise ValueError(f"few-shot pickle {path} holds a {type(item).__name__} that is no Datum with path, label and name")


def relocate(path: str, known: Container[str]) -> str | None:
    """Return the longest tail of an absolute path of another machine that is a path in ``known``, None if none is.

    Args:
        path: with the separators of any system.
        known: paths relative to the folder of images, with "/".
    """
    parts = re.split(r"[\\/]+", path)
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail in known), None)

"""Few-shot draws, kept as ``shot_{K}-seed_{S}.json`` with relative paths.

CoOp keeps ``{"train": [Datum, ...], "val": [...]}`` in ``split_fewshot/shot_{K}-seed_{S}.pkl``, with the absolute paths
of the machine that drew them. Such a pickle is read through an allow-list, without running its code.
"""

import hashlib
import json
import pickle
import re
from collections.abc import Container
from pathlib import Path
from typing import IO, Any

from dassl.data.datasets import DatasetBase

from .files import log, read_json, write_json
from .splits import Row, Rows, Split, check_rows

DATUM = ("dassl.data.datasets.base_dataset", "Datum")
BUILTINS = {"list": list, "dict": dict, "str": str, "int": int}


def few_shot(split: Split, shots: int, seed: int, folder: Path, pickles: Path, keep: bool = True) -> Split:
    """Return a split with ``shots`` training and min(shots, 4) validation images of every class.

    An existing draw is read without using a random number: our JSON file in ``folder``, or else the pickle that CoOp
    wrote into ``pickles``. A new draw follows Dassl: first train, then val; for each label in order of first appearance
    ``random.sample`` of its images, or all of them if there are fewer. The caller has seeded ``random`` with ``seed``,
    which is part of the file name. ``keep`` writes a new draw.

    Raises:
        ValueError: an existing draw is malformed or was made from another split.
    """
    path = folder / f"shot_{shots}-seed_{seed}.json"
    old = pickles / f"{path.stem}.pkl"
    fingerprint = hashlib.sha256(json.dumps([split.train, split.val]).encode()).hexdigest()[:16]
    if path.exists() or old.exists():
        found = path if path.exists() else old
        train, val = _read_draw(path, split, fingerprint) if found is path else _read_pickle(old, split)
        log.info("Few-shot draw read from %s", found)
    else:
        draw = DatasetBase(train_x=split.train).generate_fewshot_dataset
        train = list(draw(split.train, num_shots=shots))
        val = list(draw(split.val, num_shots=min(shots, 4))) if split.val else []
        if keep:
            write_json({"split": fingerprint, "train": train, "val": val}, path)
            log.info("Few-shot draw saved to %s", path)
    return Split(train, val, split.test)


def _read_draw(path: Path, split: Split, fingerprint: str) -> tuple[Rows, Rows]:
    content = read_json(path, "few-shot draw")
    if content.get("split") != fingerprint:
        raise ValueError(f"few-shot draw {path} was made from another split than the data set's; remove it")
    train, val = (check_rows(content.get(part), f"few-shot draw {path}, {part!r}") for part in ("train", "val"))
    for part, whole in ((train, split.train), (val, split.val)):
        known = set(whole)
        foreign = next((row for row in part if row not in known), None)
        if foreign is not None:
            raise ValueError(f"few-shot draw {path} holds {foreign.path}, which the split does not; remove the file")
    return train, val


def _read_pickle(path: Path, split: Split) -> tuple[Rows, Rows]:
    records = unpickle_draw(path)

    def rows(part: str, whole: Rows) -> Rows:
        known = {row.path: row for row in whole}
        found = []
        for record in records.get(part, []):
            row = known.get(relocate(record.path, known))
            if row is None or row[1:] != record[1:]:
                raise ValueError(
                    f"few-shot pickle {path} was drawn from another split: it holds {record.path} (label "
                    f"{record.label}, {record.classname!r}), which this split's {part} does not; restore that split "
                    "file or remove the pickle"
                )
            found.append(row)
        return found

    train, val = rows("train", split.train), rows("val", split.val)
    if not train or bool(val) != bool(split.val):
        found = f"{len(train)} training and {len(val)} validation images"
        raise ValueError(f"few-shot pickle {path} has {found}; remove the file")
    return train, val


class _Unpickler(pickle.Unpickler):
    """Loads Datum, list, dict, str and int; refuses every other name."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.datum = type("PickledDatum", (), {})  # a new class each time: a pickle can change its attributes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == DATUM:
            return self.datum
        if module in ("builtins", "__builtin__") and name in BUILTINS:
            return BUILTINS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def unpickle_draw(path: Path) -> dict[str, Rows]:
    """Return the lists of a CoOp few-shot pickle by name ("train", and "val" except for ImageNet).

    The paths are absolute paths of another machine.

    Raises:
        ValueError: the file is damaged, names a class that is not on the allow-list, or has another structure.
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

    def row(item: object) -> Row:
        known = isinstance(item, reader.datum)
        values = [vars(item).get(name) for name in ("_impath", "_label", "_classname")] if known else []
        if [type(value) for value in values] != [str, int, str]:
            found = type(item).__name__
            raise ValueError(f"few-shot pickle {path} holds a {found} that is no Datum with path, label and name")
        return Row(*values)

    return {str(name): [row(item) for item in part] for name, part in content.items()}


def relocate(path: str, known: Container[str]) -> str:
    """Return the longest tail of another machine's absolute path that is in ``known``, or "" if none is."""
    parts = re.split(r"[\\/]+", path)
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail in known), "")

"""Class names from the file ``DATASET.CLASSNAMES``."""

import os
from pathlib import Path

from dassl.utils.registry import did_you_mean

from .files import read_json, read_text
from .splits import Row, Split

JSON_OBJECT = 'give a JSON object {"0": "name", ...} instead'


def rename_classes(split: Split, path: Path) -> Split:
    """Return a split with the class names of a file.

    A JSON object maps old names to new ones. A JSON list, or a text file with one name per line, gives the names in the
    order of the labels; if these are the old names in another order, they set the order of the labels instead.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the names do not fit the classes.
    """
    old = {row.label: row.classname for part in reversed(split) for row in part}
    names = _read_names(path)
    listed = not isinstance(names, dict)
    if isinstance(names, dict):
        unknown = next((name for name in names if name not in old.values()), None)
        if unknown is not None:
            raise ValueError(f"{path} names {unknown!r}, which is no class{did_you_mean(unknown, old.values())}")
        names = [names.get(old[label], old[label]) for label in sorted(old)]
    if len(names) != len(old):
        raise ValueError(f"{path} has {len(names)} names, but there are {len(old)} classes")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{path} gives two classes the name {repeated!r}")
    numbers = [name for _, name in sorted(old.items())]
    if set(names) == set(old.values()):
        new = {label: (names.index(name), name) for label, name in old.items()}
    elif listed and all(name.isdecimal() for name in numbers) and sorted(numbers, key=int) != numbers:
        order = f"{', '.join(numbers[:4])}, ..."
        raise ValueError(f"{path} is a list, but the classes are numbers in the order of text ({order}); {JSON_OBJECT}")
    else:
        new = {label: (label, name) for label, name in zip(sorted(old), names)}
    return Split(*([Row(row.path, *new[row.label]) for row in part] for part in split))


def _read_names(path: Path) -> list[str] | dict[str, str]:
    if path.suffix.lower() == ".json":
        names = read_json(path, "file of class names", (dict, list))
        values = list(names.values()) if isinstance(names, dict) else names
        wrong = next((name for name in values if not isinstance(name, str) or not name.strip()), None)
        if wrong is not None:
            raise ValueError(f"{path} holds {wrong!r}; class names should be text")
        return names
    lines = (line.strip() for line in read_text(path, "file of class names").splitlines())
    return [line for line in lines if line]


def names_file(name: str, folder: Path) -> Path:
    """Return the path of ``DATASET.CLASSNAMES``, as given or relative to ``folder``; raise if neither exists."""
    tried = [Path(os.path.abspath(os.path.expanduser(name))), folder / name]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"DATASET.CLASSNAMES is {name!r}, but there is neither {tried[0]} nor {tried[1]}")
    return found

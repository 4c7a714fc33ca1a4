"""Keys of the config under ``DATASET``: those of your own data, and ``ROOT``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Keys under DATASET for your own data, and their defaults; all sets have the use of TEMPLATE, and of no other.
KEYS: dict[str, Any] = {
    "CLASSNAMES": "",  # file of class names
    "TEMPLATE": "",  # sentence with {} for the class name
    "RATIOS": (0.5, 0.2, 0.3),  # shares of train, val (may be 0) and test, where the data is not divided
    "SPLIT_SEED": 1,  # seeds that division; not SEED, so that all runs share one test set
    "IMAGES": "",  # folder that paths in a file are relative to; "": the file's own
}


def check_keys(name: str, node: Any) -> None:
    """Raise ValueError if ``node``, ``cfg.DATASET``, sets a key that a registered set has no use for."""
    for key, default in KEYS.items():
        if key != "TEMPLATE" and node.get(key, default) != default:
            raise ValueError(
                f"DATASET.{key} is {node[key]!r}, but {name} does not read it; leave it at {default!r} "
                "(Folder, Csv and SplitJson read it)"
            )


def data_root(root: str) -> Path:
    """Return ``DATASET.ROOT`` as an absolute path.

    Raises:
        ValueError: if it is empty.
        FileNotFoundError: if there is no such folder.
    """
    path = absolute(root)
    if not path.is_dir():
        raise FileNotFoundError(f"DATASET.ROOT is {root!r}, but there is no folder {path}")
    return path


def absolute(root: str) -> Path:
    """Return ``DATASET.ROOT``, which may be a file, as an absolute path; raise ValueError if it is empty."""
    if not root:
        raise ValueError("DATASET.ROOT is empty; say where the data sets are with --root FOLDER")
    return Path(os.path.abspath(os.path.expanduser(root)))

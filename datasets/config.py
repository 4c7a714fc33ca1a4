"""Config keys under ``DATASET`` that Dassl does not have, and checks of ``DATASET.ROOT``."""

import os
from pathlib import Path
from typing import Any

# Read by the custom data sets (Folder, Csv, SplitJson) only.
CUSTOM_KEYS: dict[str, Any] = {
    "CLASSNAMES": "",  # file of class names
    "RATIOS": (0.5, 0.2, 0.3),  # shares of train, val (may be 0) and test, where the data has no split
    "SPLIT_SEED": 1,  # seed of that split; not SEED, so that all runs share one test set
    "IMAGES": "",  # folder of the paths in a CSV or JSON file; "": the folder of that file
}
DEFAULTS: dict[str, Any] = {
    "SUBSAMPLE_CLASSES": "all",  # or base (first half of the classes), or new (second half)
    "TEMPLATE": "",  # sentence with {} for the class name
    **CUSTOM_KEYS,
}
MAX_TEMPLATE = 500  # characters


def extend_cfg(cfg: Any) -> None:
    """Add the keys of ``DEFAULTS`` to ``cfg.DATASET``."""
    cfg.DATASET.update(DEFAULTS)


def check_template(node: Any) -> None:
    """Raise ValueError unless ``node.TEMPLATE`` is empty or a short sentence with ``{}``."""
    template = node.get("TEMPLATE", "")
    if template and ("{}" not in template or len(template) > MAX_TEMPLATE):
        found = f"{template[:100]!r} ({len(template):,} characters)"
        raise ValueError(
            f"DATASET.TEMPLATE is {found}; it needs {{}} in place of the class name, at most {MAX_TEMPLATE}"
        )


def check_custom_keys(name: str, node: Any) -> None:
    """Raise ValueError if ``node`` (``cfg.DATASET``) sets a key that the data set ``name`` does not read."""
    for key, default in CUSTOM_KEYS.items():
        if node.get(key, default) != default:
            raise ValueError(
                f"DATASET.{key} is {node[key]!r}, but {name} does not read it; leave it at {default!r} "
                "(Folder, Csv and SplitJson read it)"
            )


def absolute_root(root: str) -> Path:
    """Return ``DATASET.ROOT``, a folder or a file, as an absolute path; raise ValueError if it is empty."""
    if not root:
        raise ValueError("DATASET.ROOT is empty; give the folder of the data sets with --root FOLDER")
    return Path(os.path.abspath(os.path.expanduser(root)))


def data_root(root: str) -> Path:
    """Return the folder ``DATASET.ROOT`` as an absolute path; raise if it is empty or does not exist."""
    path = absolute_root(root)
    if not path.is_dir():
        raise FileNotFoundError(f"DATASET.ROOT is {root!r}, but there is no folder {path}")
    return path

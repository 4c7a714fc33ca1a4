"""Who may import whom (docs/architecture.md), read off the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
STDLIB = sys.stdlib_module_names if hasattr(sys, "stdlib_module_names") else frozenset()
# Path prefix (the longest one that fits counts) -> what it may import besides the standard library and itself.
TABLE = {
    "prompting/ot/": {"torch"},
    "prompting/ot/chip/": {"torch", "triton"},
    "prompting/clip/": {"torch", "open_clip", "safetensors", "prompting"},
    "prompting/": {"torch", "prompting"},
    "trainers/": {"torch", "dassl", "yacs", "prompting", "trainers"},
    "datasets/": {"dassl", "datasets", "numpy", "PIL", "sklearn", "scipy", "tqdm", "matplotlib", "tabulate"},
    "datasets/mini/draw.py": {"numpy", "PIL", "matplotlib"},
    "datasets/mini/": {
        "numpy", "PIL", "scipy", "sklearn", "tqdm", "yaml", "torch", "open_clip", "safetensors", "resvg_py",
    },
    "engine/dassl/": {
        "dassl", "torch", "torchvision", "numpy", "yacs", "PIL", "tqdm", "tabulate", "tensorboard", "sklearn",
        "matplotlib",
    },
    "train.py": {"torch", "yacs", "yaml", "dassl", "datasets", "trainers"},
}  # fmt: skip
FILES = [
    p for top in ("prompting", "trainers", "datasets", "engine/dassl") for p in sorted((PROJECT / top).rglob("*.py"))
]
FILES.append(PROJECT / "train.py")


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.skipif(not STDLIB, reason="needs Python 3.10")
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports(path):
    name = path.relative_to(PROJECT).as_posix()
    allowed = TABLE[max((prefix for prefix in TABLE if name.startswith(prefix)), key=len)]
    for module in imported(path):
        if module.startswith("."):
            continue
        top = module.split(".")[0]
        assert top in STDLIB or top in allowed, f"{name} imports {module}"


def test_ot_is_self_contained():
    for path in (PROJECT / "prompting" / "ot").rglob("*.py"):
        for module in imported(path):
            assert not module.startswith("prompting") or module.startswith("prompting.ot"), f"{path.name}: {module}"


def test_nothing_imports_scripts_or_tests():
    for path in FILES:
        assert not any(module.split(".")[0] in ("scripts", "tests") for module in imported(path)), path

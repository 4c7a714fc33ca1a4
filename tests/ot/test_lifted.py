"""The folder stands alone: copied under another name it imports, and what its README shows runs."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import prompting.ot

FOLDER = Path(prompting.ot.__file__).parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_imports_only_torch_its_own_files_and_the_standard_library():
    allowed = {"torch", *sys.stdlib_module_names}
    for path in FOLDER.rglob("*.py"):
        depth = len(path.relative_to(FOLDER).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = {str(node.module).split(".")[0]}
            elif isinstance(node, ast.ImportFrom):
                found = set() if node.level <= depth else {"what is above the folder"}
            else:
                continue
            assert found <= allowed, f"{path.name}, line {node.lineno}: {sorted(found - allowed)}"


def test_works_from_a_copy_under_another_name(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "borrowed_transport")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        lifted = importlib.import_module("borrowed_transport")
        cost = torch.rand(4, 5, 3)
        assert torch.equal(lifted.sinkhorn(cost, lam=0.1).plan, prompting.ot.sinkhorn(cost, lam=0.1).plan)
        assert lifted.HierarchicalOT is not prompting.ot.HierarchicalOT
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "borrowed_transport"]:
            del sys.modules[name]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_readme_examples_run(example):
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - the project's own text
    assert bool(torch.isfinite(names["out"].distance).all())


def test_readme_has_examples_of_both_levels():
    assert len(EXAMPLES) == 2

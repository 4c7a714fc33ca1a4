"""The folder stands alone: copied under another name it imports, and what its README shows runs."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import torch

import prompting.ot

FOLDER = Path(prompting.ot.__file__).parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_works_from_a_copy_under_another_name(tmp_path, monkeypatch):
    assert not any(re.search(r"(from|import) prompting", path.read_text()) for path in FOLDER.glob("*.py"))
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


def test_readme_examples_of_both_levels_run():
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        names: dict = {}
        exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - the project's own text
        assert bool(torch.isfinite(names["out"].distance).all())

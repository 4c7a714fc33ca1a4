"""The self-check on fabricated folders, with figures of their own."""

import json
import re

import pytest
import torch

from experiments import verify
from experiments.runs import PROJECT
from experiments.tables import PUBLISHED
from tests.reference.clip_states import vit_state
from tests.reference.layouts import LAYOUTS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a tiny DTD and EuroSAT, and a tiny CLIP."""
    root = tmp_path_factory.mktemp("data")
    for name in ("DescribableTextures", "EuroSAT"):
        LAYOUTS[name][0](root)
    torch.save(vit_state(patch=112, grid=2, vision_layers=1, text_layers=1), root / "tiny.pt")
    return root


@pytest.fixture
def check(data, tmp_path, call_main):
    """Return a function that verifies figures, (method, data set, values) each: exit code, output, errors."""

    def call(figures, *words):
        rows = [
            {
                "table": "base2new", "method": method, "dataset": dataset, "backbone": str(data / "tiny.pt"),
                "shots": 16, "values": values, "source": "made up",
            }
            for method, dataset, values in figures
        ]  # fmt: skip
        (tmp_path / "figures.json").write_text(json.dumps({"figures": rows}))
        common = ("--figures", tmp_path / "figures.json", "--output", tmp_path / "out")
        settings = ("DATALOADER.NUM_WORKERS", "0", "USE_CUDA", "False", "OPTIM.MAX_EPOCH", "1")
        return call_main(verify, data, *common, *words, "--set", *settings)

    return call


def rows(out):
    """The table's rows by (data set, classes): expected, got, difference, tolerance, verdict."""
    found = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if "made up" in line or "FAIL" in line]
    return {(row[1], row[3]): row[4:9] for row in found}


@pytest.mark.slow
def test_zero_shot_figures(check):
    code, out, err = check([("CLIP", "dtd", {"base": 50.0, "new": 50.0}), ("CLIP", "sun397", {"base": 50.0})])
    first = rows(out)
    assert set(first) == {("dtd", "base"), ("dtd", "new")}, err  # sun397 is missing
    assert re.search(r"^dtd +found; no split_zhou_DescribableTextures.json", out, re.M)
    assert re.search(r"^sun397 +missing", out, re.M) and re.search(r"^RN50 ", out, re.M)
    got = {classes: float(row[1]) for (_, classes), row in first.items()}
    code, out, _ = check([("CLIP", "dtd", {"base": got["base"] + 0.4, "new": got["new"] - 0.6})])
    assert code == 1 and "1 of 2 figures are met" in out and "datasets check dtd --root" in out
    assert rows(out)["dtd", "base"][2:] == ["-0.40", "0.5", "pass"]
    assert rows(out)["dtd", "new"][2:] == ["+0.60", "0.5", "FAIL"]


@pytest.mark.slow
def test_a_tuned_cell(check):
    """Of the small data set among those that are there; H follows from base and new."""
    figures = [("CoOp", name, {"base": 50.0, "new": 50.0, "H": 50.0}) for name in ("eurosat", "dtd")]
    code, out, err = check(figures, "--tuned", "CoOp")
    found = rows(out)
    assert list(found) == [("dtd", "base"), ("dtd", "new"), ("dtd", "H")], err
    base, new, h = (float(row[1]) for row in found.values())
    assert h == pytest.approx(2 * base * new / (base + new) if base + new else 0, abs=0.01)
    assert [row[3] for row in found.values()] == ["2.0", "4.0", "3.0"]
    code, out, _ = check([("CoOp", "dtd", {"base": base - 1.5, "new": new + 3.5, "H": h})], "--tuned", "CoOp")
    assert code == 0 and "3 of 3 figures are met" in out  # the finished runs are not repeated


@pytest.mark.slow
def test_a_run_that_fails_is_a_row(check, data):
    for path in (data / "eurosat/2750").rglob("*.jpg"):
        path.write_text("no picture")
    code, out, _ = check([("CLIP", "eurosat", {"base": 50.0})])
    assert code == 1 and rows(out)["eurosat", "base"][1:] == ["-", "-", "0.5", "FAIL"]
    assert "Unreadable image" in out and "0 of 1 figures are met" in out


def test_the_cells_of_the_published_figures():
    cells = list(verify.cells_of(PUBLISHED["figures"], "CLIP"))
    places = [(cell.dataset, cell.backbone, cell.classes) for cell in cells]
    assert len(places) == len(set(places))
    assert {name for name, *_ in places} == set(verify.found_datasets(PROJECT))  # all fifteen
    assert {backbone for _, backbone, _ in places} == {"ViT-B/16", "RN50"}
    dtd = {(cell.backbone, cell.classes) for cell in cells if cell.dataset == "dtd"}
    assert dtd == {("ViT-B/16", "base"), ("ViT-B/16", "new"), ("RN50", "all")} and all(cell.source for cell in cells)


def test_mistakes_get_one_line(check, tmp_path, call_main):
    code, out, err = check([("CLIP", "sun397", {"base": 50.0})])
    assert code == 1 and "verify: error: nothing to verify" in err and err.count("\n") == 1
    code, _, err = check([("CoOp", "dtd", {"base": 1.0})], "--tuned", "ALIGN")
    assert code == 1 and "methods with published figures by data set" in err and "allowed: 'CoOp'" in err
    code, _, err = check([("CoOp", "sun397", {"base": 1.0})], "--tuned", "CoOp")
    assert code == 1 and "no published figure of CoOp has both its data set and its weights" in err
    code, _, err = check([], "--datasets", "dtdd")
    assert code == 1 and "data set is 'dtdd'" in err and "dtd" in err

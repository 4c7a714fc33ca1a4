"""The table of what methods cost: medians over the rounds, and published figures of the right method."""

import json

import pytest

from experiments.tables import FIGURES
from scripts.bench import methods


def test_table_of_costs():
    steps = {"CoOp": (2.0, 1.0, 3.0), "MultiModalAdapter": (5.0, 9.0, 4.0), "MMP": (8.0, 8.0, 8.0)}
    results = [
        {"method": name, "cpu_seconds": seconds[k], "peak_gb": 1.0 + k, "learned_parameters": 2048}
        for k in range(3)
        for name, seconds in steps.items()
    ]
    table = methods.costs(results)
    assert list(table.index) == list(steps) and set(table["learned parameters"]) == {"2,048"}
    assert list(table["s/step"]) == [2, 5, 8] and list(table["x CoOp"]) == [1, 2.5, 4] and set(table["peak GB"]) == {2}
    figure, source = FIGURES["base2new", "MMA", "average", 16, "ViT-B/16", "H"]
    assert table.loc["MultiModalAdapter", ["published H", "source"]].to_list() == [figure, source] == [79.87, source]
    assert table.loc["MMP"].isna()[["published H", "source"]].all()


@pytest.mark.long
def test_a_method_is_measured_with_the_settings_of_its_protocol(tmp_path, capsys):
    words = ["--methods", "KgCoOp", "TipAdapterF", "--rounds", "1", "--repeat", "1", "--classes", "3"]
    assert methods.main([*words, "--backbone", "ViT-S-32-alt", "--out", str(tmp_path / "costs.json")]) == 0
    one, other = json.loads((tmp_path / "costs.json").read_text())["results"]
    assert one["learned_parameters"] == 4 * 256 and one["seconds"] > 0  # 4 vectors, as KgCoOp's YAML file has it
    assert other["learned_parameters"] == 3 * 256 and "failed" not in other  # a key for each image
    assert "| KgCoOp" in capsys.readouterr().out

"""Which images a method gets right that another gets wrong."""

from typing import Any

import pandas as pd

from experiments.report.drawing import photo
from experiments.report.reading import EvaluatedRun


def changed_images(setting: str, runs: dict[str, EvaluatedRun], most: int) -> dict[str, Any]:
    """Return which images each method fixes and breaks, compared with the first one; {} for fewer than two methods.

    ``runs`` has one run of each method, ``most`` is the largest number of images to show: those on which the methods
    disagree most. Methods that were tested on other images are left out.
    """
    if len(runs) < 2:
        return {}
    reference, first = next(iter(runs.items()))
    paths = set(first.predictions["path"])
    same = {name: run for name, run in runs.items() if set(run.predictions["path"]) == paths}
    if len(same) < 2:
        return {}
    tables = {name: run.predictions.set_index("path") for name, run in same.items()}
    right = pd.DataFrame({name: table["correct"] == 1 for name, table in tables.items()})
    fixed, broken = right.gt(right[reference], axis=0).sum(), right.lt(right[reference], axis=0).sum()
    counts = pd.DataFrame({"method": right.columns, "right": right.sum(), "fixed": fixed, "broken": broken})
    share = right.mean(axis=1)
    mixed = share[(share > 0) & (share < 1)]
    order = (mixed - 0.5).abs().sort_values(kind="stable").index
    # By turns over the classes, so that one class does not fill the gallery.
    turn = first.predictions.set_index("path").loc[order].groupby("label", sort=False).cumcount()
    images = [_card(path, first, tables) for path in turn.sort_values(kind="stable").index[:most]]
    left_out = [name for name in runs if name not in same]
    return {
        "setting": setting, "reference": reference, "rows": counts.to_dict("records"), "images": images,
        "disagreed": len(mixed), "total": len(right), "left_out": left_out,
    }  # fmt: skip


def _card(path: str, first: EvaluatedRun, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the row of an image with its picture and the prediction of each method."""
    rows = {name: table.loc[path].to_dict() for name, table in tables.items()}
    guesses = [(name, r["predicted_class"], 100 * r["probability_1"], bool(r["correct"])) for name, r in rows.items()]
    return {**next(iter(rows.values())), "path": path, "src": photo(first.root / path), "guesses": guesses}

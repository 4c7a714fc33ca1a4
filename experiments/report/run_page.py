"""The report of one run."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.report.drawing import chart, photo
from experiments.report.page import render
from experiments.report.plan_views import plan_views
from experiments.report.reading import EvaluatedRun, class_table, mistakes
from prompting.explain.curves import draw_panel, read_curves
from trainers.record.runs import flat

MATRIX_CLASSES = 60  # in the confusion matrix
EXAMPLE_CLASSES, EXAMPLE_IMAGES = 3, 6


def run_page(run: EvaluatedRun, most: int = 24, backbone: str | None = None) -> str:
    """Return the report of a tested run as HTML, with at most ``most`` wrong images.

    ``backbone`` is the name or file of the CLIP, for the plans; None takes that of the run.
    """
    classes, wrong, notes = class_table(run), mistakes(run), []
    shown = wrong.head(most)
    if missing := sum(not (run.root / path).is_file() for path in run.predictions["path"]):
        notes.append(
            f"{missing} of {len(run.predictions)} images were not found in {run.root}: they are left blank here. "
            "Give the folder of the data sets with --root."
        )
    views: list[list[dict[str, Any]]] = [[] for _ in range(len(shown))]
    plan_kind = ""
    if len(shown) and not missing:
        try:
            views, plan_kind = plan_views(run, shown, backbone)
        except (ValueError, OSError) as error:
            notes.append(f"The plans of the wrong images are left out: {error}")
    charts, no_charts = _charts(run)
    return render(
        "run.html.j2",
        title="{method} on {dataset}".format_map(run.results),
        subtitle="{classes} classes, {shots} shots, seed {seed}".format_map(run.results),
        notes=notes,
        key_numbers=_key_numbers(run),
        charts=charts,
        no_charts=no_charts,
        classes=classes.to_dict("records"),
        matrix=confusion_matrix(run),
        examples=_examples(run, classes),
        wrong=len(wrong),
        images=len(run.predictions),
        plan_kind=plan_kind,
        mistakes=[_mistake(run, row, view) for row, view in zip(shown.to_dict("records"), views)],
        mistake_classes=sorted({(row.label, row["class"]) for _, row in shown.iterrows()}, key=lambda one: one[1]),
        facts=_facts(run),
        config=sorted(flat(run.results["config"]).items()),
    )


def _key_numbers(run: EvaluatedRun) -> list[tuple[str, str]]:
    one, test = run.results, run.test
    tiles = [(f"{test['accuracy']:.2f}%", "accuracy")]
    tiles += [(f"{test['macro_f1']:.2f}%", "macro F1")] if "macro_f1" in test else []
    tiles += [(f"{len(run.predictions):,}", "test images"), (f"{one['learned_parameters']:,}", "learned parameters")]
    tiles += [(f"{one['train_seconds']:.0f} s", "training")] if one.get("train_seconds") else []
    tiles.append((f"{test['ms_per_image']:.1f} ms", "per image, in the test"))
    for level, found in one.get("transport", {}).get("test", {}).items():
        failed = 100 * found["not_converged"] / found["problems"]
        tiles.append((f"{failed:.2g}%", f"{level} problems not converged"))
    return tiles


def _charts(run: EvaluatedRun) -> tuple[list[str], str]:
    """Return the training curves, or the reason why there are none."""
    if not run.results["learned_parameters"]:
        return [], f"{run.results['method']} learns nothing."
    try:
        panels = read_curves(run.trained_folder)
    except FileNotFoundError as error:
        return [], f"{error}."
    epochs = max(x for panel in panels for points in panel.lines.values() for x, _ in points)
    return [chart(partial(draw_panel, panel=panel, epochs=epochs), panel.title) for panel in panels], ""


def confusion_matrix(run: EvaluatedRun) -> dict[str, Any]:
    """Return positions and shares of the cells that are not zero, of the classes with most confusions."""
    counts, often = run.confusion, run.errors.sum(0) + run.errors.sum(1)
    chosen = np.sort(np.argsort(-often, kind="stable")[:MATRIX_CLASSES])
    names, totals = [run.classnames[i] for i in chosen], counts.sum(1)[chosen]
    part = counts[np.ix_(chosen, chosen)]
    rows, columns = part.nonzero()
    cells = pd.DataFrame({"row": rows, "column": columns, "count": part[rows, columns], "total": totals[rows]})
    cells["opacity"] = np.sqrt(cells["count"] / cells["total"])
    cell, margin = (24 if len(names) <= 30 else 15), 12 + int(6.3 * max(map(len, names)))
    return {
        "names": names,
        "cells": cells.to_dict("records"),
        "cell": cell,
        "margin": margin,
        "side": margin + cell * len(names) + 2,
        "left_out": len(counts) - len(names),
    }


def _examples(run: EvaluatedRun, classes: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the best and the worst classes with sample images, wrong ones first in the worst."""
    tested = classes[classes["images"] > 0].sort_values("accuracy", ascending=False, kind="stable")
    number = min(EXAMPLE_CLASSES, max(1, len(tested) // 2))
    best, worst = tested.head(number), tested.tail(number)[::-1]
    return [("Best", _groups(run, best, False)), ("Worst", _groups(run, worst, True))]


def _groups(run: EvaluatedRun, classes: pd.DataFrame, wrong_first: bool) -> list[dict[str, Any]]:
    rows = run.predictions.sort_values("correct", ascending=wrong_first, kind="stable")
    groups = []
    for one in classes.to_dict("records"):
        chosen = rows[rows["label"] == one["label"]].head(EXAMPLE_IMAGES)
        thumbs = [{**row, "src": photo(run.root / row["path"], 96)} for row in chosen.to_dict("records")]
        groups.append({**one, "thumbs": thumbs})
    return groups


def _mistake(run: EvaluatedRun, row: dict[str, Any], views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a wrong image with its picture, the views of its plans and its likeliest classes."""
    guesses = [(int(row[f"top_{i}"]), 100 * float(row[f"probability_{i}"])) for i in range(1, 6) if f"top_{i}" in row]
    top = [(run.classnames[guess], percent, guess == row["label"]) for guess, percent in guesses]
    src = views[0]["image"] if views else photo(run.root / row["path"])
    return {**row, "src": src, "views": views, "top": top}


def _facts(run: EvaluatedRun) -> list[tuple[str, Any]]:
    one = run.results
    keys = ("method", "backbone", "dataset", "classes", "shots", "seed", "epochs", "precision", "device")
    facts = [("data set" if key == "dataset" else key, one.get(key)) for key in keys]
    peak = one.get("peak_memory_mb")
    versions = ", ".join(f"{name} {version}" for name, version in one.get("versions", {}).items() if version)
    return [
        *facts,
        ("finished", str(one.get("finished", "-"))[:16].replace("T", " ")),
        ("peak memory", f"{peak:.0f} MB" if peak else "-"),
        ("versions", versions),
        ("learned tensors (SHA-256)", one.get("learned_sha256")),
        ("folder", run.folder),
        *([("trained in", run.trained_folder)] if run.trained_folder != run.folder else []),
    ]

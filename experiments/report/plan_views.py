"""The plans of images, as small pictures and tables in a report."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

import trainers  # noqa: F401  registers the backbone of the mini suite
from experiments.report.drawing import encoded, layer
from experiments.report.reading import EvaluatedRun
from prompting.classifier import Classifier
from prompting.explain.plan_figure import UNIFORM, heat_layer, how_even
from prompting.explain.plans import ClassPlan, ImagePlan, transport_plans
from prompting.methods import METHODS

LIMIT = 2.0  # end of the colour scale, in doublings of uniform mass
BATCH = 8


def plan_views(
    run: EvaluatedRun, rows: pd.DataFrame, backbone: str | None = None
) -> tuple[list[list[dict[str, Any]]], str]:
    """Return for each image the views of its predicted and its true class, and the kind of the plans.

    ``rows`` are rows of the run's predictions; ``backbone`` is the name or file of the CLIP, None for that of the run.
    A view has the image as the model sees it, a heat map (or ""), plan cells (or none) and a caption. The kind is
    "tokens", "patches" or "prompts"; "" for a method without transport, which has no views.

    Raises:
        ValueError, OSError: the run's model cannot be loaded.
    """
    if not hasattr(METHODS.get(run.results["method"]), "head_input"):
        return [[] for _ in range(len(rows))], ""
    trained = Classifier.load(run.folder, device="cpu", precision="fp32", backbone=backbone)
    views, kind = [], ""
    for start in range(0, len(rows), BATCH):
        part = rows.iloc[start : start + BATCH]
        crops = [trained.preprocess.read(run.root / path) for path in part["path"]]
        labels = list(zip(part["predicted"].tolist(), part["label"].tolist()))
        images = torch.stack([trained.preprocess(crop) for crop in crops])
        plans = transport_plans(trained.model, images, trained.classnames, labels=labels)
        for crop, plan in zip(crops, plans):
            tokens = plan.classes[0].tokens is not None
            kind = "patches" if plan.rows_are_patches else "tokens" if tokens else "prompts"
            image = encoded(crop)
            views.append(
                [{"image": image, **_view(one, plan, word)} for one, word in zip(plan.classes, ("predicted", "true"))]
            )
    return views, kind


def _view(one: ClassPlan, plan: ImagePlan, word: str) -> dict[str, Any]:
    heat, (m, n) = _heat(one, plan), one.heaviest()[0]
    size = (plan.grid[1] * 3, plan.grid[0] * 3)  # the page scales it up smoothly
    hidden = plan.rows_are_patches or how_even(one.plan) == UNIFORM  # equal numbers say nothing
    return {
        "name": one.name,
        "caption": f"{word}: {one.name}",
        "layer": "" if heat is None else layer(heat_layer(heat, LIMIT, size)),
        "cells": [] if hidden else _cells(one.plan, (m, n) if one.tokens is not None else None),
        "even": "uniform prompt plan" if hidden and not plan.rows_are_patches else "",
    }


def _heat(one: ClassPlan, plan: ImagePlan) -> Tensor | None:
    """Return multiples of uniform mass (rows, columns); None if the plan says nothing about places on the image."""
    if plan.rows_are_patches:
        multiples = one.plan.unflatten(0, (-1, plan.grid[0] * plan.grid[1])).mean(0) * one.plan.numel()  # (O, N)
        return multiples[:, int(multiples.std(0).argmax())].view(plan.grid)
    if one.tokens is None:
        return None
    m, n = one.heaviest()[0]
    named = [i for i, word in enumerate(one.words[n]) if not word.startswith("[")]
    return one.heat(m, n, plan.grid)[torch.tensor(named)].mean(0)


def _cells(plan: Tensor, framed: tuple[int, int] | None) -> list[list[dict[str, Any]]]:
    doublings = (plan * plan.numel()).clamp_min(1e-6).log2()
    return [
        [
            {
                "percent": 100 * float(plan[m, n]),
                "doublings": float(doublings[m, n]),
                "strength": min(1.0, abs(float(doublings[m, n])) / LIMIT) * 80,
                "framed": (m, n) == framed,
            }
            for n in range(plan.shape[1])
        ]
        for m in range(plan.shape[0])
    ]

"""Training curves from TensorBoard's files: loss, accuracy, learning rate, and how the transport went."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prompting.explain.style import CYCLE, INK, MUTED, SETTINGS, colour
from prompting.run_folder import read_run

Points = list[tuple[float, float]]
"""Pairs of epoch and value."""
DASHES = ("-", "--", ":")  # of the first ten colours, and of the next


@dataclass(frozen=True)
class Panel:
    """One chart: its lines by name, and the values that uniform plans would have."""

    title: str
    lines: dict[str, Points] = field(default_factory=dict)
    uniform: tuple[float, ...] = ()


def read_curves(folder: Path) -> list[Panel]:
    """Return the charts of a run that TensorBoard's files in ``folder`` have values for.

    Values within an epoch are running means since its start, as in the log; the last one is the epoch's mean.

    Raises:
        FileNotFoundError: the run has no TensorBoard file: it learned nothing, or its folder is incomplete.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = folder / "tensorboard"
    if not any(events.glob("events*")):
        raise FileNotFoundError(f"{folder} has no curves: there is no TensorBoard file in {events}")
    reader = EventAccumulator(str(events), size_guidance={"scalars": 0})
    reader.Reload()
    batches = batches_per_epoch(folder)

    def points(tag: str, steps: int = 1, unit: float = 1.0) -> Points:
        """Values by epoch, which has ``steps`` steps; a batch that a resumed run repeated counts once."""
        found = {event.step: event.value for event in reader.Scalars(tag)} if tag in reader.Tags()["scalars"] else {}
        return [((step + 1) / steps, unit * value) for step, value in sorted(found.items())]

    def levels(name: str, unit: float = 1.0) -> dict[str, Points]:
        return {f"{level} level": points(f"train/transport_{level}_{name}", unit=unit) for level in ("prompt", "token")}

    uniform = tuple(values[-1][1] for values in levels("uniform_entropy").values() if values)
    panels = [
        Panel("loss", {"training": points("train/loss", batches)}),
        Panel("accuracy (%)", {"training": points("train/acc", batches), "validation": points("val/accuracy")}),
        Panel("learning rate", {"learning rate": points("train/lr", batches)}),
        Panel("entropy of the plans (nats)", levels("entropy"), uniform or uniform_prompts(folder)),
        Panel("iterations of the transport", levels("iterations")),
        Panel("problems not converged (%)", levels("not_converged", unit=100)),
    ]
    kept = [replace(panel, lines={name: values for name, values in panel.lines.items() if values}) for panel in panels]
    return [panel for panel in kept if panel.lines]


def batches_per_epoch(folder: Path) -> int:
    """Return the number of batches in an epoch, as the newest log that tells it says; 1 if none does."""
    for log in sorted(folder.glob("log.txt*"), key=lambda path: path.stat().st_mtime, reverse=True):
        if found := re.findall(r"batch \[\d+/(\d+)\]", log.read_text(encoding="utf-8", errors="replace")):
            return int(found[-1])
    return 1


def uniform_prompts(folder: Path) -> tuple[float, ...]:
    """Return ln(M N), the entropy of a uniform plan of prompts, for runs that did not record it; () if unknown."""
    trainer = read_run(folder)["config"]["TRAINER"]
    node: dict[str, Any] = next((value for key, value in trainer.items() if key != "NAME"), {})
    for keys in (("VISION_PROMPT_NUMBER", "TEXT_PROMPT_NUMBER"), ("M", "N")):
        if all(key in node for key in keys):
            return (math.log(node[keys[0]] * node[keys[1]]),)
    return ()


def draw_panel(axes: Axes, panel: Panel, epochs: float | None = None, colours: Sequence[int] = ()) -> None:
    """Draw one chart: values within epochs as a thin line, those at the ends of epochs as a thick one.

    Args:
        axes: to draw on.
        panel: the chart.
        epochs: end of the horizontal axis; None fits the values.
        colours: number of each line's colour (``style.colour``); by default they are counted.
    """
    for i, (name, points) in zip(colours or range(len(panel.lines)), panel.lines.items()):
        ends = [(x, y) for x, y in points if abs(x - round(x)) < 1e-6]
        style: dict[str, Any] = {"color": colour(i), "ls": DASHES[i // len(CYCLE) % len(DASHES)]}
        if len(ends) < len(points) and panel.title != "learning rate":
            axes.plot(*zip(*points), lw=0.8, alpha=0.5, **style)
            axes.plot(*zip(*ends), marker="o", ms=3, label=name, **style) if ends else None
        else:
            axes.plot(*zip(*points), marker="o" if len(points) < 40 else "", ms=3, label=name, **style)
    for i, value in enumerate(panel.uniform):  # on top: a level whose plans are uniform is a dashed line
        axes.axhline(value, color=INK, ls=(0, (4, 3)), lw=1.1, zorder=3, label="" if i else "uniform plans")
    alone = len(panel.lines) == 1 and not panel.uniform
    names = [name for name in panel.lines if alone and name != panel.title]
    axes.set_title(", ".join([panel.title, *names]))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = [y for points in panel.lines.values() for _, y in points]
    if min(values) >= 0 and not panel.uniform:
        axes.set_ylim(0, 1.05 * max(values) or 1.0)
    if not any(values):
        axes.set_title(f"{panel.title}: none")
    if epochs:
        axes.set_xlim(0, 1.015 * epochs)  # the last point is drawn whole
    if not alone:
        outside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.03)} if len(panel.lines) > 5 else {}
        axes.legend(fontsize=8, handlelength=2.6, labelspacing=0.25, **outside)


def curves_figure(panels: list[Panel], title: str) -> Figure:
    """Draw all charts of a run, three in a row."""
    columns, rows = min(3, len(panels)), -(-len(panels) // 3)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3.4 * columns + 0.3, 2.5 * rows + 0.45), dpi=150, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        epochs = max(x for panel in panels for points in panel.lines.values() for x, _ in points)
        for axes, panel in zip(grid.flat, panels):
            draw_panel(axes, panel, epochs)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        note = "Thin lines are running means within an epoch, points are means of whole epochs."
        figure.supxlabel(note, x=0.01, ha="left", size=9, color=MUTED)
    return figure

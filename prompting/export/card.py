"""The model card of an export: ``README.md`` with the Hub's YAML header."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData  # comes with open_clip

from prompting.export.onnx import OPSET
from prompting.files import csv_bytes, write_file
from prompting.run_folder import ModelSettings

Json = dict[str, Any]

TEXT = """\
# {method} on {dataset}

{about} The text tower is not part of it, so other class names need the run itself.

{metrics}

## Use it

`load_model.py` needs torch and safetensors alone:

```python
import load_model

model = load_model.load("model.safetensors")
logits = model(images)  # (B, 3, {height}, {width}) to (B, {count})
names = [model.config["classnames"][i] for i in logits.argmax(1)]
```

The ONNX files (opset {opset}) take `images` (B, 3, {height}, {width}), any B, and give `logits` (B, {count}):

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"images": images}})
```

Images: {turn}resize the shorter edge to {edge} pixels ({images[interpolation]}), crop the centre to
{height} x {width}, scale to [0, 1], subtract {images[mean]} and divide by {images[std]}.

{transport}## Size and speed

{table}

{notes} Speed: batches of 32 on the CPU that made this folder; peak memory is that of the whole process.

## Classes

{names}
"""


def write_card(
    folder: Path, config: Json, run: ModelSettings, test: Json, table: str, *, about: str, notes: str
) -> None:
    """Write ``README.md`` for an exported model.

    ``test`` are the metrics on the test images, if there are any. ``about`` says what the model is, ``notes`` explain
    the table.
    """
    head, pixels = config["head"], config["images"]
    values: dict[str, float] = {name: test[name] for name in ("accuracy", "macro_f1") if name in test}
    lines = [f"| {name.replace('_f1', ' F1')} | {value:.2f}% |" for name, value in values.items()]
    metrics = "\n".join(["| metric, on the test images | |", "|---|---|", *lines]) if lines else "It was not tested."
    transport = ""
    if head["kind"] == "transport":
        transport = (
            f"The transport has {head['iterations']} iterations at each level. A problem that has met its tolerance "
            f"({head['tol']:g}) stays as it is, so that more iterations change nothing once all have.\n\n"
        )
    text = TEXT.format(
        **config,
        dataset=run.dataset,
        about=about,
        count=len(config["classnames"]),
        metrics=metrics,
        height=pixels["size"][0],
        width=pixels["size"][1],
        turn="turn as their EXIF data say, " if pixels["turn"] else "",
        edge=max(pixels["size"]),
        opset=OPSET,
        transport=transport,
        table=table,
        notes=notes,
        names=", ".join(config["classnames"]),
    )
    page = f"---\n{header(config, run, values)}\n---\n\n{text}"
    write_file(folder / "README.md", page.encode("utf-8", "backslashreplace"))


def header(config: Json, run: ModelSettings, metrics: dict[str, float]) -> str:
    """Return the YAML header that the Hub reads."""
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=run.dataset,
            dataset_name=run.dataset,
            metric_type=name,
            metric_value=round(value / 100, 4),
        )
        for name, value in metrics.items()
    ]
    return ModelCardData(
        model_name=f"{config['method']} on {run.dataset}",
        library_name="align-clip",
        pipeline_tag="image-classification",
        tags=["clip", "prompt-tuning", "few-shot", "safetensors", "onnx"],
        eval_results=results or None,
    ).to_yaml()


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns; all but the first are aligned to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (width - 1) if not i else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def csv_table(rows: Sequence[Any]) -> bytes:
    """Return objects of one dataclass as a CSV file, one column for each field."""
    return csv_bytes([[field.name for field in fields(rows[0])], *map(astuple, rows)])

"""Export of a run into a folder: the files of each form, checked against the model, measured and described."""

import json
import math
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from prompting.classifier import Classifier
from prompting.export import portable as loader
from prompting.export.card import markdown, write_card
from prompting.export.convert import portable
from prompting.export.measure import BATCH, measure
from prompting.export.onnx import onnx_session, write_int8, write_onnx
from prompting.export.portable import ExportedModel
from prompting.files import move_files, naming, work_folder, write_file
from prompting.images import find_images
from prompting.ot.checks import check_choice
from prompting.run_folder import ModelSettings, data_folder, predicted_images, read_json, read_run

FORMS = ("safetensors", "onnx", "int8")
FILES = {"safetensors": "model.safetensors", "onnx": "model.onnx", "int8": "model.int8.onnx"}
TOLERANCE = 1e-4  # largest difference of a logit from the model's
NUMBER = 100  # images that an export is checked on
ABOUT = """\
{method} (prompt tuning of the CLIP {backbone}), trained on {dataset} and exported for its {count} classes: vision
tower, learned prompts and class features."""
NOTES = """\
Agreement with the full model is the largest difference of a logit, and the share of images with the same likeliest
class, on {images}."""


@dataclass(frozen=True)
class Form:
    """One form of the model, compared with the full model."""

    name: str
    size_mb: float
    difference: float  # largest difference of a logit
    same_class: float  # share of images with the same likeliest class
    peak_mb: float = math.nan
    images_per_second: float = math.nan


def export(
    run: Path,
    folder: Path,
    forms: Sequence[str] = FORMS,
    *,
    images: Path | None = None,
    iterations: int | None = None,
    measured: bool = True,
    **loading: Any,
) -> list[Form]:
    """Write a run's model in some forms, with a loader and a model card.

    Args:
        run: the run's folder.
        folder: folder to write to; it is made.
        forms: some of ``FORMS``.
        images: folder of images to check the forms on; None takes the run's test images if they are found.
        iterations: iterations of the transport; None takes 1.5 times the number that the images need.
        measured: measure memory and speed.
        **loading: arguments of ``Classifier.load``.

    Returns:
        The full model, then each form.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: a model that cannot be exported, or a form that does not give the model's logits.
    """
    for form in forms:
        check_choice("form", form, FORMS)
    classifier = Classifier.load(run, device="cpu", precision="fp32", **loading)
    batch, source = check_images(classifier, run, images)
    model = portable(classifier, iterations)
    raw = [model.vision(part) for part in batch.split(BATCH)]
    if iterations is None:
        fix_iterations(model, raw)
    allowed = [classifier(batch, BATCH).logits]
    if model.config["head"]["kind"] == "transport":
        allowed += stopped_elsewhere(model, raw)
        print(f"{model.config['head']['iterations']} iterations of the transport at each level")
    found = [Form("full model", weights_mb(classifier), 0.0, 1.0)]
    with work_folder(folder / ".part", folder) as new:  # an older export stays if this one fails
        needed = {*forms, "onnx"} if "int8" in forms else set(forms)  # int8 is made from onnx
        for form in sorted(needed, key=FORMS.index):
            print(f"writing {folder / FILES[form]}")
            score = write_form(form, model, new)
            logits = torch.cat([score(part) for part in batch.split(BATCH)])
            found.append(compare(form, new / FILES[form], logits, torch.stack(allowed)))
        if measured:
            found = measure_all(found, classifier.settings, new, batch)
        found = [form for form in found if form.name in ("full model", *forms)]
        if "onnx" not in forms:
            (new / FILES["onnx"]).unlink(missing_ok=True)
        about = ABOUT.format(**classifier.settings.as_json(), count=len(classifier.classnames))
        notes = NOTES.format(images=source)
        table = as_table(found)
        results = read_json(run / "results.json") if (run / "results.json").is_file() else {}
        test = results.get("metrics", {}).get("test", {})
        write_card(new, model.config, classifier.settings, test, table, about=about, notes=notes)
        move_files(new, folder)
    return found


def check_images(classifier: Classifier, run: Path, folder: Path | None) -> tuple[Tensor, str]:
    """Return preprocessed images (B, 3, H, W) to check an export on, and what they are."""
    if folder is not None:
        paths = find_images([folder])
        what = f"images of {folder.resolve().name}"  # not its whole path: the card may be published
    else:
        root = data_folder(read_run(run)["config"]["DATASET"]["ROOT"])
        rows = predicted_images(run) if (run / "predictions.csv").is_file() else []
        paths, what = [path for name, _ in rows if (path := root / name).is_file()], "test images"
    if not paths:
        stream = torch.Generator().manual_seed(1)
        return torch.randn(NUMBER, 3, *classifier.preprocess.size, generator=stream), f"{NUMBER} images of noise"
    step = max(1, len(paths) // NUMBER)  # of all classes: they are sorted
    chosen = paths[::step][:NUMBER]
    return classifier.preprocess.stack(chosen), f"{len(chosen)} {what}"


def fix_iterations(model: ExportedModel, raw: Sequence[Tensor]) -> None:
    """Set the number of iterations to 1.5 times what the vision tower's outputs need, at most ``max_iter``."""
    head = model.config["head"]
    if head["kind"] != "transport":
        return

    def logits(iterations: int) -> Tensor:
        head["iterations"] = iterations
        return torch.cat([model.score(part) for part in raw])

    wanted, enough = logits(head["max_iter"]), range(1, head["max_iter"] + 1)
    same = partial(torch.allclose, wanted, rtol=0, atol=TOLERANCE / 10)
    number = 1 + bisect_left(enough, True, hi=len(enough) - 1, key=lambda count: same(logits(count)))
    head["iterations"] = min(number + (number + 1) // 2, head["max_iter"])


def stopped_elsewhere(model: ExportedModel, raw: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits (B, K) if the transport stops at a slightly lower, and at a slightly higher tolerance.

    A problem whose change is the tolerance up to rounding stops an iteration earlier in one runtime than in another.
    """
    head, found = model.config["head"], []
    fixed = dict(head)
    head["iterations"] = head["max_iter"]
    for head["tol"] in (0.9999 * fixed["tol"], 1.0001 * fixed["tol"]):
        found.append(torch.cat([model.score(part) for part in raw]))
    head.update(fixed)
    return found


def write_form(form: str, model: ExportedModel, folder: Path) -> Callable[[Tensor], Tensor]:
    """Write the file of a form, and return its function from images to logits."""
    path = folder / FILES[form]
    if form == "onnx":
        with naming(path):
            write_onnx(model, path)
    elif form == "int8":
        with naming(path):
            write_int8(folder / FILES["onnx"], path)
    else:
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_file(path, save(state, {"format": "pt", "config": json.dumps(model.config)}))
        write_file(folder / "load_model.py", Path(loader.__file__).read_bytes())
        return loader.load(str(path))
    return onnx_session(path)


def compare(name: str, path: Path, logits: Tensor, allowed: Tensor) -> Form:
    """Return how the logits (B, K) of a form agree with those of the model and of ``stopped_elsewhere``, (1|3, B, K).

    Raises:
        ValueError: a logit of a form other than int8 differs by more than ``TOLERANCE`` from all that are allowed.
    """
    differences = (logits - allowed).abs()
    difference = float(differences.amin(0).max())
    if name != "int8" and not difference <= TOLERANCE:
        raise ValueError(
            f"{path.name} gives logits that differ from the model's by {difference:.2g}; allowed: {TOLERANCE:g} "
            "(with --iterations N, more iterations may help)"
        )
    same = float((logits.argmax(1) == allowed[0].argmax(1)).float().mean())
    return Form(name, path.stat().st_size / 1e6, float(differences[0].max()), same)


def weights_mb(classifier: Classifier) -> float:
    """Return the size of all weights of a model in 10^6 bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in classifier.model.parameters()) / 1e6


def measure_all(forms: list[Form], made: ModelSettings, folder: Path, images: Tensor) -> list[Form]:
    """Return the forms with peak memory and speed, each from a new process; ``made`` has the full model's settings."""
    measured = []
    with tempfile.TemporaryDirectory() as place:
        run = made.write(Path(place, "run"))
        for form in forms:
            print(f"measuring {form.name}")
            found = measure(folder / FILES[form.name] if form.name in FILES else run, images.numpy())
            measured.append(replace(form, peak_mb=found["peak_mb"], images_per_second=found["images_per_second"]))
    return measured


def as_table(forms: Sequence[Form]) -> str:
    """Return the comparison as a Markdown table."""
    head = "form", "size (MB)", "peak memory (MB)", "images / s", "largest difference", "same class"
    rows = []
    for form in forms:
        numbers = [f"{form.size_mb:.1f}", f"{form.peak_mb:.0f}", f"{form.images_per_second:.1f}"]
        rows.append(
            [form.name, *numbers, f"{form.difference:.1e}" if form.difference else "0", f"{form.same_class:.0%}"]
        )
    return markdown(head, rows).replace(" nan ", "   - ")

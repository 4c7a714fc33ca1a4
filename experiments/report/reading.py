"""A run's files as the report needs them: results, predictions of every image, and where the images are."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.collect import ALL_KEYS, read_results_file
from experiments.runs import PROJECT
from trainers.record.files import file_hash

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EvaluatedRun:
    """A run that was tested."""

    folder: Path
    results: dict[str, Any]
    predictions: pd.DataFrame  # path, label, class, predicted, predicted_class, correct, top_1, probability_1, ...
    root: Path  # folder of the paths in ``predictions``

    @property
    def classnames(self) -> list[str]:
        return self.results["classnames"]

    @property
    def test(self) -> dict[str, Any]:
        """The metrics of the test."""
        return self.results["metrics"]["test"]

    @cached_property
    def trained_folder(self) -> Path:
        """The folder of the training: the run's, or that of the run whose checkpoint it tests."""
        loaded = self.results.get("loaded_from")
        folders = [self.folder, *([_resolved(loaded).parent.parent] if loaded else [])]
        return next((folder for folder in folders if any(folder.glob("tensorboard/events*"))), self.folder)

    @cached_property
    def confusion(self) -> Array:
        """(K, K) number of images by true (row) and predicted class (column)."""
        counts = np.zeros((len(self.classnames),) * 2, dtype=int)
        np.add.at(counts, (self.predictions["label"], self.predictions["predicted"]), 1)
        return counts

    @cached_property
    def errors(self) -> Array:
        """``confusion`` with zeros on the diagonal."""
        return self.confusion - np.diag(self.confusion.diagonal())


def read_run(folder: Path, root: str | Path | None = None, needs_predictions: bool = True) -> EvaluatedRun:
    """Return a tested run.

    ``root`` is the folder of the data sets, None for the run's. Without ``needs_predictions``, the predictions are
    empty if there is no predictions.csv.

    Raises:
        FileNotFoundError: results.json or predictions.csv is missing.
        ValueError: results.json or predictions.csv is damaged, or the run is not tested.
    """
    for name in ("results.json", *(["predictions.csv"] if needs_predictions else [])):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: the run is not finished, or is no run of train.py")
    results = read_results_file(folder / "results.json", {**ALL_KEYS, "config": dict, "classnames": list})
    if "test" not in results["metrics"]:
        raise ValueError(f"{folder} is not tested yet (results.json has no metrics of test)")
    place = _resolved(str(root or results["config"]["DATASET"]["ROOT"]))
    table = read_predictions(folder, results) if (folder / "predictions.csv").is_file() else pd.DataFrame()
    return EvaluatedRun(folder, results, table, place.parent if place.is_file() else place)


def read_predictions(folder: Path, results: dict[str, Any]) -> pd.DataFrame:
    """Return the content of a run's predictions.csv.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not the one that ``results``, the content of results.json, has the SHA-256 of.
    """
    file, promised = folder / "predictions.csv", results.get("files", {})
    words = {"class": str, "predicted_class": str}  # also a class "NA", and names of images in any bytes
    table = pd.read_csv(file, dtype=words, keep_default_na=False, encoding_errors="surrogateescape")
    if promised.get("predictions.csv", found := file_hash(file)) != found:
        raise ValueError(
            f"{file} is damaged, was edited, or is of another evaluation than results.json: repeat the run's command"
        )
    return table


def with_answers(results: pd.DataFrame) -> pd.DataFrame:
    """Return results, one row per run, with the answers of the runs that have a predictions.csv.

    ``images`` is a hash of the paths of the test images, ``correct`` has "0" or "1" for each, in the order of paths.
    Rows from a CSV file keep their answers, if they have any. For errors see ``read_predictions``.
    """
    results = results.reindex(columns=list(dict.fromkeys([*results, "images", "correct"])))
    results = results.astype({"images": object, "correct": object})
    for row, folder in results["folder"].items():
        if (folder / "predictions.csv").is_file():
            table = read_predictions(folder, read_results_file(folder / "results.json")).sort_values("path")
            paths = "\n".join(table["path"]).encode("utf-8", "surrogateescape")
            results.at[row, "images"] = hashlib.sha256(paths).hexdigest()[:12]
            results.at[row, "correct"] = "".join(table["correct"].astype(int).astype(str))
    return results


def _resolved(path: str) -> Path:
    """Return a path of a run: as it is, or, where that does not exist, in the checkout, where runs are started."""
    found = Path(os.path.expanduser(path))
    return found if found.exists() or found.is_absolute() else PROJECT / found


def class_table(run: EvaluatedRun) -> pd.DataFrame:
    """Return one row a class: accuracy (recall), precision and confidence in percent, images, and main confusion."""
    counts, labels = run.confusion, range(len(run.classnames))
    table = pd.DataFrame({"label": labels, "name": run.classnames, "images": counts.sum(1)})
    table["accuracy"] = 100 * counts.diagonal() / table["images"]
    table["precision"] = 100 * counts.diagonal() / pd.Series(counts.sum(0))
    table["confidence"] = 100 * run.predictions.groupby("label")["probability_1"].mean().reindex(labels)
    main, table["times"] = run.errors.argmax(1), run.errors.max(1)
    table["taken_for"] = [run.classnames[m] if n else "" for m, n in zip(main, table["times"])]
    return table


def mistakes(run: EvaluatedRun) -> pd.DataFrame:
    """Return the wrong images, the most confident first."""
    wrong = run.predictions[run.predictions["correct"] == 0]
    return wrong.sort_values("probability_1", ascending=False, kind="stable")

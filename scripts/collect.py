"""What runs left: ``results.json``, or the logs of CoOp, MaPLe, PLOT and others; and why a folder gives nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Folders of runs, as scripts of the family make them. "part" is what the folder above says.
_SEED = r"seed(?P<seed>\d+)$"
LAYOUTS = [
    re.compile(pattern + _SEED)
    for pattern in (
        r"(?:^|/)(?P<part>train_base|test_base|test_new|xd/train|dg/train|xd/test|dg/test)/(?P<dataset>[^/]+)"
        r"/shots_(?P<shots>\d+)/(?P<method>[^/]+)/(?P<config>[^/]+)/",
        r"(?:^|/)(?P<part>evaluation)/(?P<method>[^/]+)/(?P<config>[^/]+?)_(?P<shots>\d+)shots?/(?:(?P<more>[^/]+)/)?"
        r"(?P<dataset>[^/]+)/",
        r"(?:^|/)(?P<dataset>[^/]+)/shots_(?P<shots>\d+)/(?P<method>[^/]+)/(?P<config>[^/]+)/",
        r"(?:^|/)(?P<dataset>[^/]+)/(?P<method>[^/]+)/shots_(?P<shots>\d+)/",
        r"(?:^|/)(?:(?P<number>OP_N\d+)/)?(?P<dataset>[^/]+)/(?P<method>[^/]+)/(?P<config>[^/]+?)_(?P<shots>\d+)shots?/"
        r"(?:(?P<more>[^/]+)/)?",
    )
]
# CoOp's script of zero-shot tests gives no seed, and needs none
LAYOUTS.append(re.compile(r"(?:^|/)(?P<method>ZeroshotCLIP2?)/(?P<config>[^/]+)/(?P<dataset>(?!seed\d)[^/]+)$"))
PARTS = {
    "train_base": "base", "test_base": "base", "test_new": "new", "xd/train": "source", "dg/train": "source",
    "xd/test": "target", "dg/test": "target", "evaluation": "target",
}  # fmt: skip
AGAIN = "remove the file and repeat the command that made it: it tests anew, without training again"
END_MARKERS = ("Finish training", "Finished training")  # of Dassl 0.6 and 0.5


@dataclass(frozen=True)
class Found:
    """The accuracy of one run.

    Args:
        method: name of the trainer.
        dataset: stem of the data set's YAML file.
        part: "base", "new", "source", "target", or "all" classes.
        shots: training images a class.
        seed: of the run.
        config: stem of the method's YAML file, with CoOp's folder of settings ("rn50/nctx16_cscFalse_ctpend") behind
            it where there is one; "" if the folder does not say.
        accuracy: in percent.
        backbone: None if unknown.
        folder: of the run.
        exact: full precision; a log has one or two decimals.
    """

    method: str
    dataset: str
    part: str
    shots: int
    seed: int
    config: str
    accuracy: float
    backbone: str | None
    folder: Path
    exact: bool


def collect(root: Path) -> tuple[list[Found], list[str]]:
    """Return the results under a folder, and a line for every run's folder that gives none, with the reason.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found, notes = [], []
    for folder in run_folders(root):
        try:
            found.append(read_folder(folder))
        except ValueError as error:
            notes.append(f"{folder}: {str(error).replace(f'{folder}{os.sep}', '')}")
    # scripts that test a training anew, in test_base, leave its result twice: the test is what was asked for
    tested = {one.folder for one in found}
    return [one for one in found if _test_of(one.folder) not in tested], notes


def _test_of(folder: Path) -> Path | None:
    """Return where the base classes are tested anew with what was trained in ``folder``; None for other folders."""
    parts = ["test_base" if part == "train_base" else part for part in folder.parts]
    return Path(*parts) if "train_base" in folder.parts else None


def run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders under ``root`` that hold results or logs, sorted."""
    for place, folders, files in os.walk(root):
        folders.sort()
        if any(name == "results.json" or name.startswith("log.txt") for name in files):
            yield Path(place)


def read_folder(folder: Path) -> Found:
    """Return the result of a run's folder.

    Raises:
        ValueError: there is none; says why.
    """
    path = folder.resolve().as_posix()
    layout = next((match for pattern in LAYOUTS if (match := pattern.search(path))), None)
    said: dict[str, Any] = layout.groupdict() if layout else {}
    if (folder / "results.json").is_file():
        return _from_results(folder, said)
    if not said:
        raise ValueError("a log, but the folder's name does not say data set, method, shots and seed")
    accuracy, backbone = read_logs(folder)
    return _found(folder, said, accuracy, backbone, False)


def _found(folder: Path, said: dict[str, Any], accuracy: float, backbone: str | None, exact: bool) -> Found:
    part = PARTS.get(said.get("part") or "", "all")
    numbers = int(said.get("shots", 0)), int(said.get("seed", 1))
    config = "/".join(filter(None, (said.get("config"), said.get("more"))))
    # PLOT's script keeps CoOp's name for its trainer
    method = "PLOT" if said.get("number") and said["method"] == "CoOp" else said["method"]
    return Found(method, said["dataset"], part, *numbers, config, accuracy, backbone, folder, exact)


def _from_results(folder: Path, said: dict[str, Any]) -> Found:
    content = read_results(folder / "results.json", KEYS if said else OWN_KEYS)
    test = content["metrics"].get("test")
    if test is None:
        raise ValueError("not tested yet (results.json has no metrics of test)")
    if not said:  # a folder of one's own: the file says the rest
        stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", content["dataset"]).lower()
        part = {"base": "train_base", "new": "test_new"}.get(content["classes"])
        said = {**{key: content[key] for key in ("method", "shots", "seed")}, "dataset": stem, "part": part}
    return _found(folder, {**said, "method": content["method"]}, test["accuracy"], content["backbone"], True)


# What is needed of results.json, and its type: in a folder whose name says the rest, and in any other.
KEYS: dict[str, type] = {"metrics": dict, "method": str, "backbone": str}
OWN_KEYS: dict[str, type] = {**KEYS, "dataset": str, "classes": str, "shots": int, "seed": int}


def read_results(path: Path, keys: Mapping[str, type] = KEYS) -> dict[str, Any]:
    """Return what ``results.json`` holds.

    Args:
        path: the file.
        keys: what it has to hold, and the types.

    Raises:
        ValueError: it is damaged or not one of ours; one line with the file, what is wrong and what to do.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no results.json of ours: it holds a {type(content).__name__}; {AGAIN}")
    for key, form in keys.items():
        if key not in content:
            raise ValueError(f"{path} is no results.json of ours: it has no {key!r}; {AGAIN}")
        if not isinstance(content[key], form):
            found, right = type(content[key]).__name__, form.__name__
            raise ValueError(f"{path} is no results.json of ours: {key!r} is a {found}, not a {right}; {AGAIN}")
    for split, metrics in content.get("metrics", {}).items():
        accuracy = metrics.get("accuracy") if isinstance(metrics, dict) else None
        if not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 100:
            raise ValueError(f"{path} is no results.json of ours: metrics of {split!r} have no accuracy; {AGAIN}")
    return content


def read_logs(folder: Path) -> tuple[float, str | None]:
    """Return accuracy and backbone from the newest ``log.txt*`` that has a result.

    Raises:
        ValueError: none has; says why of each.
    """
    logs = sorted(folder.glob("log.txt*"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True)
    reasons = []
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            accuracy = read_log(text)
        except ValueError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        backbone = re.search(r"Loading CLIP \(backbone: ([^)]+)\)", text)
        return accuracy, backbone[1] if backbone else None
    raise ValueError("; ".join(reasons))


def read_log(text: str) -> float:
    """Return the last accuracy of a log: of a training after its end marker, else of an evaluation.

    Raises:
        ValueError: there is none; says why.
    """
    lines = [line.strip() for line in text.splitlines()]
    ends = [i for i, line in enumerate(lines) if line in END_MARKERS]
    if not ends and any(re.match(r"epoch \[\d+/\d+\]", line) for line in lines):
        raise ValueError(f"the training did not finish (no line {' or '.join(map(repr, END_MARKERS))})")
    after = lines[ends[-1] :] if ends else lines
    if "=> result" not in after:
        where = "after the end of training" if ends else "in it"
        raise ValueError(f"nothing was evaluated (no line '=> result' {where})")
    numbers = [match[1] for line in after if (match := re.match(r"\* accuracy: ([\d.eE+-]+)%", line))]
    if not numbers:
        raise ValueError("no line '* accuracy: ...%' after '=> result'")
    return float(numbers[-1])

"""Reads the results of runs: ``results.json``, logs of CoOp, MaPLe, PLOT and others, or a CSV file of results."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dassl.utils.registry import did_you_mean

# Folder names of runs by the scripts of CoOp, CoCoOp, MaPLe, PLOT, ALIGN and this project.
LAYOUTS = [
    re.compile(rf"(?:^|/){pattern}/seed(?P<seed>\d+)$")
    for pattern in (
        r"(?P<part>train_base|test_base|test_new|xd/train|dg/train|xd/test|dg/test)/(?P<dataset>[^/]+)"
        r"/shots_(?P<shots>\d+)/(?P<method>[^/]+)/(?P<config>[^/]+)",
        r"(?P<part>evaluation)/(?P<method>[^/]+)/(?P<config>[^/]+?)_(?P<shots>\d+)shots?/(?:(?P<settings>[^/]+)/)?"
        r"(?P<dataset>[^/]+)",
        r"(?P<dataset>[^/]+)/shots_(?P<shots>\d+)/(?P<method>[^/]+)/(?P<config>[^/]+)",
        r"(?P<dataset>[^/]+)/(?P<method>[^/]+)/shots_(?P<shots>\d+)",
        r"(?:(?P<plot>OP_N\d+)/)?(?P<dataset>[^/]+)/(?P<method>[^/]+)/(?P<config>[^/]+?)_(?P<shots>\d+)shots?"
        r"(?:/(?P<settings>[^/]+))?",
    )
]
# CoOp's script of zero-shot tests writes no seed.
LAYOUTS.append(re.compile(r"(?:^|/)(?P<method>ZeroshotCLIP2?)/(?P<config>[^/]+)/(?P<dataset>(?!seed\d)[^/]+)$"))
PARTS = {
    "train_base": "base", "test_base": "base", "test_new": "new", "xd/train": "source", "dg/train": "source",
    "xd/test": "target", "dg/test": "target", "evaluation": "target", "base": "base", "new": "new",
}  # fmt: skip
END_MARKERS = ("Finish training", "Finished training")  # in logs of Dassl 0.6 and 0.5
# Required keys of results.json with their types: if the folder's name gives the others, and if it does not.
RESULT_KEYS: dict[str, type] = {"metrics": dict, "method": str, "backbone": str}
ALL_KEYS: dict[str, type] = {**RESULT_KEYS, "dataset": str, "classes": str, "shots": int, "seed": int}
RUN_COLUMNS = ("method", "dataset", "part", "shots", "seed", "accuracy")  # of a CSV file of results, at least
# Text in a CSV file of results: pandas would read a commit 61305e7, and the answers 0110, as numbers.
TEXT_COLUMNS = dict.fromkeys(("config", "commit", "config_hash", "note", "images", "correct"), str)


@dataclass(frozen=True)
class RunResult:
    """The result of one run; None for values that its folder does not give."""

    method: str  # registry name of the trainer
    dataset: str  # stem of the data set's YAML file
    part: str  # "base", "new", "source", "target", or "all" classes
    shots: int  # training images per class
    seed: int
    config: str  # stem of the method's YAML file, with CoOp's folder of settings ("rn50/nctx16_cscFalse_ctpend")
    accuracy: float  # percent: in full precision from results.json, with one or two decimals from a log
    folder: Path
    backbone: str | None = None
    macro_f1: float | None = None  # percent
    seconds: float | None = None  # training time
    ms_per_image: float | None = None  # test time
    learned_parameters: int | None = None
    config_hash: str | None = None  # hash of the settings without the seed
    note: str | None = None  # a deviation from the published method


def read(output: Path, protocol: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the results in a CSV file, or below a folder (of the protocol's runs if there are any), with notes."""
    known = [field.name for field in fields(RunResult)]
    if output.suffix == ".csv":
        table = read_table(output)
        table = table.reindex(columns=list(dict.fromkeys([*known, *table])))
        return table.astype({"config": object}).fillna({"config": ""}).assign(folder=output), []
    names = {"xd": ("xd",), "dg": ("xd/train", "dg")}.get(protocol, (protocol,))
    folders = [output / name for name in names if (output / name).is_dir()] or [output]
    results, notes = (list(chain(*parts)) for parts in zip(*map(collect, folders)))
    return pd.DataFrame(results, columns=known), notes


def read_table(path: Path, columns: Sequence[str] = RUN_COLUMNS) -> pd.DataFrame:
    """Return a CSV file of results.

    Raises:
        ValueError: the file is no CSV file, lacks one of the ``columns``, has a column twice or a cell without one, a
            run without an accuracy between 0 and 100, or answers that are not 0 or 1.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        table = pd.read_csv(path, dtype=TEXT_COLUMNS) if header else pd.DataFrame()
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} twice; remove one")
    if missing := [name for name in columns if name not in header]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it should have {', '.join(columns)}")
    if not table.empty and not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: its lines have more cells than the header has columns")
    for name in [*columns, *{"correct"} & {*table}] if len(table) else ():
        numbers, allowed, right = pd.to_numeric(table[name], errors="coerce"), "text", table[name].notna()
        if name == "correct":
            allowed, right = "0 or 1 for each image", ~right | table[name].str.fullmatch("[01]+").eq(True)
        elif name == "accuracy":
            allowed, right = "a number from 0 to 100", numbers.between(0, 100)
        elif name in ("shots", "seed"):
            allowed, right = "a whole number", numbers.mod(1).eq(0)
        if not right.all():
            row = int((~right).argmax())
            raise ValueError(f"{path}, row {row + 1}: {name} is {str(table[name][row]):.40}; it should be {allowed}")
    return table


def collect(root: Path) -> tuple[list[RunResult], list[str]]:
    """Return the results below a folder, and for each run folder without a result a line with the reason."""
    if not root.is_dir():
        siblings = (path.name for path in root.parent.iterdir() if path.is_dir()) if root.parent.is_dir() else ()
        raise FileNotFoundError(f"no folder {root}{did_you_mean(root.name, siblings)}")
    results, notes = [], []
    for folder in sorted({path.parent for name in ("results.json", "log.txt*") for path in root.rglob(name)}):
        try:
            results.append(read_folder(folder))
        except ValueError as error:
            notes.append(f"{folder}: {str(error).replace(f'{folder}{os.sep}', '')}")
    # Scripts that test the base half again, in test_base, leave its result twice: keep the later test.
    tests = [result.folder.parts for result in results if "test_base" in result.folder.parts]
    replaced = {Path(*("train_base" if part == "test_base" else part for part in parts)) for parts in tests}
    results = [result for result in results if result.folder not in replaced]
    # An evaluation in RUN/eval counts only where no other run has its result.
    key = attrgetter("method", "dataset", "part", "shots", "seed")
    found = {key(result) for result in results if result.folder.parent.name != "eval"}
    return [result for result in results if result.folder.parent.name != "eval" or key(result) not in found], notes


def read_folder(folder: Path) -> RunResult:
    """Return the result of a run's folder; raise ValueError with the reason if it has none."""
    path = folder.resolve().as_posix()
    named: dict[str, Any] = next((found.groupdict() for layout in LAYOUTS if (found := layout.search(path))), {})
    if (folder / "results.json").is_file():
        content = read_results_file(folder / "results.json", RESULT_KEYS if named else ALL_KEYS)
        if "test" not in content["metrics"]:
            raise ValueError("not tested yet (results.json has no metrics of test)")
        if not named:
            named = {key: content[key] for key in ("shots", "seed")} | {"part": content["classes"]}
            named["dataset"] = stems().get(content["dataset"], content["dataset"].lower())
    elif named:
        # PLOT's script keeps CoOp's name for its trainer.
        method = "PLOT" if named.get("plot") and named["method"] == "CoOp" else named["method"]
        content = {"method": method, **read_logs(folder)}
    else:
        raise ValueError("a log, but the folder's name does not give data set, method, shots and seed")
    test, part = content["metrics"]["test"], PARTS.get(named.get("part") or "", "all")
    numbers = int(named.get("shots", 0)), int(named.get("seed", 1))
    config = "/".join(filter(None, (named.get("config"), named.get("settings"))))
    more = {key: test.get(key) for key in ("macro_f1", "ms_per_image")}
    more |= {key: content.get(key) for key in ("learned_parameters", "note")}
    more["seconds"] = content.get("train_seconds")
    more["config_hash"] = content.get("config") and config_hash(content["config"])
    run = content["method"], named["dataset"], part, *numbers, config
    return RunResult(*run, test["accuracy"], folder, content["backbone"], **more)


@cache
def stems() -> dict[str, str]:
    """Return the stem of the YAML file of each registered data set."""
    files = (Path(__file__).resolve().parent.parent / "configs" / "datasets").glob("*.yaml")
    return {yaml.safe_load(file.read_text(encoding="utf-8"))["DATASET"]["NAME"]: file.stem for file in files}


def config_hash(config: dict[str, Any]) -> str:
    """Return a hash of a run's settings without the seed, 12 hexadecimal digits."""
    from trainers.record.runs import flat

    settings = {key: value for key, value in flat(config).items() if key != "SEED"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read_results_file(path: Path, keys: Mapping[str, type] = RESULT_KEYS) -> dict[str, Any]:
    """Return the content of ``results.json``; raise ValueError if it is damaged or lacks one of the typed ``keys``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} instead of keys and values")
        for key, form in keys.items():
            if not isinstance(content.get(key), form):
                found = f"is a {type(content[key]).__name__}" if key in content else "is missing"
                raise ValueError(f"{key!r} {found}; allowed: a {form.__name__}")
        for split, metrics in content.get("metrics", {}).items():
            accuracy = metrics.get("accuracy") if isinstance(metrics, dict) else None
            if not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 100:
                raise ValueError(f"no accuracy between 0 and 100 in the metrics of {split!r}")
    except (ValueError, RecursionError) as error:
        remedy = "remove the file and repeat its command, which tests without training again"
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    return content


def read_logs(folder: Path) -> dict[str, Any]:
    """Return accuracy and backbone, as in ``results.json``, from the newest ``log.txt*`` with a result."""
    logs = sorted(folder.glob("log.txt*"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True)
    reasons = []
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        backbone = re.search(r"Loading CLIP \(backbone: ([^)]+)\)", text)
        try:
            return {"metrics": {"test": {"accuracy": read_log(text)}}, "backbone": backbone and backbone[1]}
        except ValueError as error:
            reasons.append(f"{path.name}: {error}")
    raise ValueError("; ".join(reasons))


def read_log(text: str) -> float:
    """Return the last accuracy of a log, in a training's log after its end marker; raise ValueError with the reason."""
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


def by_dataset(results: pd.DataFrame, part: str, shots: int, datasets: Sequence[str]) -> pd.DataFrame:
    """Return accuracies (methods, data sets), means over seeds, from one row per run; NaN where there is no run."""
    chosen = results[(results["part"] == part) & (results["shots"] == shots)]
    return chosen.groupby(["method", "dataset"])["accuracy"].mean().unstack().reindex(columns=datasets)


def harmonic(base: Any, new: Any) -> Any:
    """Return H, the harmonic mean of two accuracies, of numbers, arrays or columns; 0 if both are 0."""
    total = base + new
    return 2 * base * new / (total + (total == 0))

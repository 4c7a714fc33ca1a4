"""Runs of train.py: whether one is done, and doing it under a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

PROJECT = Path(__file__).resolve().parent.parent
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))
from scripts.collect import KEYS  # noqa: E402
from scripts.collect import read_results as read_file  # noqa: E402

# Every run is a process of its own, forked from one that has imported what train.py needs: that takes seconds.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["train"])


@dataclass(frozen=True)
class Run:
    """One call of train.py.

    Args:
        method: registry name.
        dataset: stem of the data set's YAML file.
        seed: of all random numbers.
        part: what is done, for people.
        folder: where its results go.
        words: the command line.
        trained: the run whose prompts are tested; None if this one trains them.
        start: the run before, whose prompts this training starts from; None without one.
    """

    method: str
    dataset: str
    seed: int
    part: str
    folder: Path
    words: tuple[str, ...]
    trained: Run | None = None
    start: Run | None = None

    @property
    def results(self) -> Path:
        return PROJECT / self.folder / "results.json"


def read_results(run: Run) -> dict[str, Any] | None:
    """Return what a run left in ``results.json`` if it was tested, else None.

    Raises:
        ValueError: the file is damaged.
    """
    if not run.results.is_file():
        return None
    found = read_file(run.results, {**KEYS, "config": dict})
    return found if "test" in found["metrics"] else None


def is_done(run: Run) -> bool:
    """Say whether a run is finished: tested, and with the prompts that the run before it has now.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    found = read_results(run)
    if found is None:
        return False
    import train
    from trainers.record.runs import changed_keys, method_config

    now = method_config(train.setup_cfg(train.parse_args(list(run.words))), run.method)
    changed = changed_keys(found["config"], now)
    if changed:
        key, before, after = changed[0]
        raise ValueError(
            f"{run.folder} holds a run with other settings: {key} was {before!r} and is now {after!r}; "
            "give another --output, or move the folder"
        )
    trained = read_results(run.trained) if run.trained else found
    same = trained is not None and trained.get("learned_sha256") == found.get("learned_sha256")
    return same and starts_as_now(run, found)


def starts_as_now(run: Run, left: dict[str, Any]) -> bool:
    """Say whether what a run left comes from the prompts that its first stage has now; yes if neither says."""
    then = left.get("start_sha256")
    if run.start is None or then is None:
        return True
    first = read_results(run.start)
    return first is not None and first.get("learned_sha256") == then


def begin_anew(run: Run) -> None:
    """Move a training that started from other prompts than the first stage has now aside, so that none resumes it."""
    asked = asked_for(run)
    if asked is None or starts_as_now(run, asked):
        return
    folder = run.results.parent
    aside = folder / time.strftime("before-%Y-%m-%d-%H-%M-%S")
    aside.mkdir()
    # run.json last: as long as checkpoints are left, it says what they started from.
    for path in (*(pointer.parent for pointer in folder.glob("*/checkpoint")), folder / "run.json"):
        path.rename(aside / path.name)


def asked_for(run: Run) -> dict[str, Any] | None:
    """Return the ``run.json`` in a run's folder; None if there is none."""
    path = run.results.parent / "run.json"
    if not path.is_file():
        return None
    try:
        return read_file(path, {})
    except ValueError:
        raise ValueError(f"{path} is damaged; move its folder away, and the command trains anew") from None


def state(run: Run) -> str:
    """Return "done", "begun" (it would resume) or "to do".

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    if is_done(run):
        return "done"
    asked = asked_for(run) if run.trained is None else None
    return "begun" if asked is not None and starts_as_now(run, asked) else "to do"


def execute(run: Run, bar: tqdm) -> None:
    """Run train.py, with its epoch and time left beside the bar.

    Raises:
        RuntimeError: the run failed; its last words.
    """
    reading, writing = FRESH.Pipe(duplex=False)
    process = FRESH.Process(target=train_here, args=(run.words, writing))
    process.start()
    writing.close()
    last = ""
    try:
        with open(os.dup(reading.fileno()), errors="replace") as lines:
            for line in lines:
                last = line.strip() or last
                if found := re.search(r"epoch (\[\S+\]).* loss \S+ \((\S+)\).* eta (\S+)", line):
                    bar.set_postfix_str(f"epoch {found[1]}, loss {found[2]}, {found[3]} left in this run")
    finally:
        reading.close()
        process.join()
    if process.exitcode:
        raise RuntimeError(last or f"exit code {process.exitcode}")


def train_here(words: Sequence[str], output: Connection) -> None:
    """Be ``python train.py WORDS`` in this process, printing to ``output``."""
    os.chdir(PROJECT)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = ["train.py", *words]
    import train

    sys.exit(train.main())


def run_all(runs: Sequence[Run], quiet: bool = False) -> None:
    """Do the runs that are not done, one after the other, under a progress bar.

    Raises:
        RuntimeError: a run failed; its folder and last words.
        ValueError: a folder holds a run with other settings.
    """
    unique = list({run.folder: run for run in runs}.values())
    with tqdm(total=len(unique), desc="runs", unit="run", dynamic_ncols=True, disable=quiet) as bar:
        for run in unique:
            if not is_done(run):
                bar.set_description(f"{run.method}, seed {run.seed}: {run.part}")
                bar.set_postfix_str("")
                begin_anew(run)
                try:
                    execute(run, bar)
                except RuntimeError as error:
                    raise RuntimeError(f"{run.folder} failed: {error}") from None
            bar.update()


def in_one_line(name: str, act: Callable[[], int]) -> int:
    """Return what ``act`` returns; of a user's mistake print one line and return 1, of an interruption 130."""
    try:
        return act()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def commands(runs: Iterable[Run]) -> Iterator[str]:
    """Return the runs as lines of a shell."""
    return (shlex.join(["python", "train.py", *run.words]) for run in runs)

"""Runs of train.py: their specification, their state, and their execution in separate processes."""

import inspect
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from dassl.utils import command as errors
from tqdm import tqdm

from experiments.collect import RESULT_KEYS, read_results_file

PROJECT = Path(__file__).resolve().parent.parent
# Every run is forked from a server process that has imported these modules: their import takes seconds.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["train", "sklearn.metrics"])


@dataclass(frozen=True)
class RunSpec:
    """One planned call of ``train.py``: a training, or the test of another run's prompts."""

    method: str  # registry name of the trainer
    dataset: str  # stem of a YAML file in configs/datasets
    config: str  # YAML file of the method
    base: Path  # folder of all runs of a part of a protocol
    shots: int  # training images per class
    seed: int
    root: str = "data"  # folder of the data sets
    classes: str = "all"  # or "base", "new"
    options: tuple[str, ...] = ()  # KEY VALUE words over the YAML files
    learns: bool = True  # False for a training-free method, which has no checkpoint to load
    trained: "RunSpec | None" = None  # the run whose prompts are tested; None for a training
    first_stage: "RunSpec | None" = None  # the run whose prompts this training starts from
    plugins: tuple[str, ...] = ()  # Python files that register methods or data sets

    @property
    def folder(self) -> Path:
        """The output folder, named as CoOp's scripts name it."""
        name = Path(self.dataset, f"shots_{self.shots}", self.method, Path(self.config).stem, f"seed{self.seed}")
        return self.base / name

    @property
    def results_file(self) -> Path:
        return PROJECT / self.folder / "results.json"

    def argv(self) -> list[str]:
        """Return the arguments of ``train.py``."""
        words = ["--root", self.root, "--seed", str(self.seed), "--trainer", self.method]
        words += ["--dataset-config-file", f"configs/datasets/{self.dataset}.yaml", "--config-file", self.config]
        words += ["--output-dir", str(self.folder), *(word for file in self.plugins for word in ("--plugin", file))]
        if self.trained:
            words += ["--eval-only", *(["--model-dir", str(self.trained.folder)] if self.learns else [])]
        words += ["DATASET.NUM_SHOTS", str(self.shots), "TRAIN.CHECKPOINT_FREQ", "1", *self.options]
        return [*words, "DATASET.SUBSAMPLE_CLASSES", self.classes]

    def command(self) -> str:
        """Return the run as a shell command."""
        return shlex.join(["python", "train.py", *self.argv()])


def read_results(run: RunSpec) -> dict[str, Any] | None:
    """Return a run's results.json, or None before its evaluation; raise ValueError for a damaged file."""
    if not run.results_file.is_file():
        return None
    content = read_results_file(run.results_file, {**RESULT_KEYS, "config": dict})
    split = content["config"].get("TEST", {}).get("SPLIT", "test")
    return content if split in content["metrics"] else None


def state(run: RunSpec) -> str:
    """Return "done", "begun" (it would resume) or "to do" (also if the prompts on which it depends have changed).

    Raises:
        ValueError: the folder holds a run with other settings, or a file in it is damaged.
    """
    content = read_results(run)
    if content is not None:
        import train
        from trainers.record.files import missing_files
        from trainers.record.runs import changed_keys, method_config

        now = method_config(train.setup_cfg(train.parse_args(run.argv())), run.method)
        for key, before, value in changed_keys(content["config"], now):
            raise ValueError(
                f"{run.folder} holds a run with other settings: {key} was {before!r} and is now {value!r}; "
                "give another --output-dir, or move the folder"
            )
        if not _outdated(run, content) and not missing_files(run.results_file.parent, content):
            return "done"
    record = _run_record(run)
    return "to do" if record is None or _outdated(run, record) else "begun"


def _outdated(run: RunSpec, record: dict[str, Any]) -> bool:
    """Return whether the prompts that a run tests or starts from have changed since it recorded their hash."""
    source, key = (run.trained, "learned_sha256") if run.trained else (run.first_stage, "start_sha256")
    if source is None or record.get(key) is None:
        return False
    return (read_results(source) or {}).get("learned_sha256") != record[key]


def _run_record(run: RunSpec) -> dict[str, Any] | None:
    """Return the content of run.json, which a training writes when it begins; None if there is none."""
    from trainers.record.files import read_json

    path = run.results_file.with_name("run.json")
    return read_json(path) if path.is_file() else None


def _archive_outdated(run: RunSpec) -> None:
    """Archive a second-stage run whose first-stage checkpoint has changed, so that it is not resumed."""
    folder = run.results_file.parent
    archive = folder / time.strftime("before-%Y-%m-%d-%H-%M-%S")
    archive.mkdir()
    # run.json last: as long as checkpoints remain, it records their starting point.
    for path in (*(pointer.parent for pointer in folder.glob("*/checkpoint")), folder / "run.json"):
        path.rename(archive / path.name)


def run_all(runs: Sequence[RunSpec], quiet: bool = False) -> None:
    """Execute the runs that are not done, in order, under a progress bar; for errors see ``state`` and ``execute``."""
    unique = list({run.folder: run for run in runs}.values())
    with tqdm(total=len(unique), desc="runs", unit="run", dynamic_ncols=True, disable=quiet) as bar:
        for run in unique:
            if state(run) != "done":
                part = run.dataset if run.classes == "all" else run.classes
                bar.set_description(f"{run.method}, seed {run.seed}: {'test' if run.trained else 'train'} on {part}")
                bar.set_postfix_str("")
                if _outdated(run, _run_record(run) or {}):
                    _archive_outdated(run)
                execute(run.argv(), run.folder, bar)
            bar.update()


def execute(words: Sequence[str], folder: Path, bar: tqdm) -> None:
    """Run train.py with ``words`` in a separate process; show epoch, loss and remaining time on the bar.

    A run that fails raises RuntimeError with its folder and the last line of its output.
    """
    with without_ctrl_c():
        ensure_running()
    reader, writer = FORKSERVER.Pipe(duplex=False)
    process = FORKSERVER.Process(target=_train, args=(words, writer))
    process.start()
    writer.close()
    last = ""
    try:
        with open(os.dup(reader.fileno()), errors="replace") as lines:
            for line in lines:
                last = line.strip() or last
                if found := re.search(r"epoch (\[\S+\]).* loss \S+ \((\S+)\).* eta (\S+)", line):
                    bar.set_postfix_str(f"epoch {found[1]}, loss {found[2]}, {found[3]} left in this run")
    except BaseException:
        process.terminate()  # nothing is lost: the last whole epoch is on the disk
        raise
    finally:
        reader.close()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"{folder} failed: {last or f'exit code {process.exitcode}'}")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Let processes that start in the block leave Ctrl-C, which a terminal also sends to them, to this process."""
    main = threading.current_thread() is threading.main_thread()  # signals are set there only
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _train(argv: Sequence[str], output: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(PROJECT)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # Data workers would inherit the start method of this process; reset it to the default, as in any other run.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = ["train.py", *argv]
    import train

    sys.exit(train.main())


def _end_with_parent() -> None:
    """End this process when the command that started it has been killed; nobody would wait for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def command(main: Callable[[Sequence[str]], int | None]) -> Callable[..., int]:
    """Decorate a module's ``main`` with ``dassl.utils.command``, under the module's name, or its package's."""
    file = Path(inspect.getfile(main))
    name = file.parent.name if file.stem == "__main__" else file.stem
    return errors.command(name, interrupted="interrupted; the same command continues from here")(main)

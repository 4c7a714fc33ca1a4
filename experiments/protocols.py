"""Plan the runs of a protocol (configs/protocols.yaml) and execute those that are not done.

    python -m experiments.protocols base2new ALIGN caltech101 dtd 1 2 3   # METHOD, data sets, seeds
    python -m experiments.protocols xd ALIGN mini 1    # "mini" is the mini suite, "all" the paper's data sets

Every run is one call of ``train.py``. A finished run is not repeated, an interrupted one resumes, and a folder that
holds a run with other settings is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.defaults import RunDefaults, add_defaults
from experiments.runs import PROJECT, RunSpec, report_errors, run_all, state
from prompting.ot.checks import check_choice

SETTINGS = yaml.safe_load((PROJECT / "configs" / "protocols.yaml").read_text(encoding="utf-8"))
METHODS: dict[str, dict[str, Any]] = SETTINGS["methods"]
SEEDS, SHOTS, FEWSHOT_SHOTS = SETTINGS["seeds"], SETTINGS["shots"], SETTINGS["fewshot_shots"]
TRAINING_FREE = SETTINGS["training_free"]
PROTOCOLS = ("base2new", "xd", "dg", "fewshot")
Job = tuple[RunSpec, ...]  # runs that depend on one another, in order: a training and its tests


@dataclass(frozen=True)
class Suite:
    """Data sets that are reported together, by the stems of their YAML files (see configs/protocols.yaml)."""

    source: str
    targets: list[str]
    shifts: list[str]
    config: str = ""

    def datasets(self, protocol: str) -> list[str]:
        """Return the data sets that ``protocol`` reports."""
        return {"xd": self.targets, "dg": self.shifts}.get(protocol, [self.source, *self.targets])


SUITES = {name: Suite(**entry) for name, entry in SETTINGS["suites"].items()}


def presentation_order(methods: Iterable[str]) -> list[str]:
    """Return methods in the order of configs/protocols.yaml; others after them, by name."""
    order = list(METHODS)
    return sorted(methods, key=lambda name: (order.index(name) if name in order else len(order), name))


def registered_methods() -> list[str]:
    """Return the names in Dassl's trainer registry, in the order of presentation."""
    from dassl.engine import TRAINER_REGISTRY

    import trainers  # noqa: F401  registers the methods

    return presentation_order(TRAINER_REGISTRY.registered_names())


def config_files(method: str, protocol: str, dataset: str, shots: int, config: str = "") -> list[str]:
    """Return the YAML files of a method in a protocol, one per stage; raise ValueError if there is none."""
    check_choice("method", method, registered_methods())
    entry: Any = config or next((s.config for s in SUITES.values() if dataset in (s.source, *s.targets, *s.shifts)), "")
    if not entry:
        entry = METHODS.get(method, {}).get("xd" if protocol == "dg" else protocol, "")
        if isinstance(entry, dict):
            entry = entry.get(dataset, entry.get(shots, entry.get("default", "")))
    folder = Path("configs", "trainers", method)
    known = ", ".join(sorted(path.stem for path in (PROJECT / folder).glob("*.yaml"))) or "none"
    remedy = f"name a YAML file with --config ({folder} has: {known})"
    if not entry:
        where = f"{method} in {protocol} on {dataset} with {shots} shots"
        raise ValueError(f"configs/protocols.yaml has no settings for {where}; {remedy}")
    stages = [Path(stem) for stem in (entry if isinstance(entry, list) else [entry])]
    files = [stage if stage.suffix in (".yaml", ".yml") else folder / f"{stage}.yaml" for stage in stages]
    for file in files:
        if not (PROJECT / file).is_file():
            raise ValueError(f"{method} has no {file}; {remedy}")
    return [file.as_posix() for file in files]


def published_options(method: str, protocol: str, dataset: str, shots: int, config: str = "") -> list[str]:
    """Return the KEY VALUE words that a protocol sets over its YAML file; none over a file of the user or a suite."""
    if config or any(s.config for s in SUITES.values() if dataset in (s.source, *s.targets, *s.shifts)):
        return []
    entry = METHODS.get(method, {}).get(f"{'xd' if protocol == 'dg' else protocol}_options", {})
    words = entry.get(dataset, entry.get("default", ""))
    return (words.get(shots, "") if isinstance(words, dict) else words).split()


class Planner:
    """Plans the jobs of one method with one seed."""

    def __init__(self, method: str, seed: int, defaults: RunDefaults) -> None:
        self.method, self.seed, self.defaults = method, seed, defaults

    def _folder(self, base: Path, dataset: str, shots: int, config: str) -> Path:
        return base / dataset / f"shots_{shots}" / self.method / Path(config).stem / f"seed{self.seed}"

    def _train(
        self,
        protocol: str,
        dataset: str,
        config: str,
        base: Path,
        shots: int = SHOTS,
        stage: Sequence[str] = (),
        **more: Any,
    ) -> RunSpec:
        folder, learns = self._folder(base, dataset, shots, config), self.method not in TRAINING_FREE
        published = published_options(self.method, protocol, dataset, shots, self.defaults.config)
        options = (*stage, *published, *self.defaults.options)
        shared = {"root": self.defaults.root, "options": options, "plugins": self.defaults.plugins}
        more = {**shared, "learns": learns, **more}
        return RunSpec(self.method, dataset, config, folder, shots, self.seed, **more)

    def _test(self, trained: RunSpec, dataset: str, base: Path, classes: str = "all") -> RunSpec:
        folder = self._folder(base, dataset, SHOTS, trained.config)
        return replace(trained, dataset=dataset, folder=folder, classes=classes, trained=trained)

    def base2new(self, dataset: str, under: str = "base2new") -> Job:
        """Train on the base half of the classes; test on it and on the new half."""
        base = self.defaults.output / under
        (config,) = config_files(self.method, "base2new", dataset, SHOTS, self.defaults.config)
        trained = self._train("base2new", dataset, config, base / "train_base", classes="base")
        return trained, self._test(trained, dataset, base / "test_new", "new")

    def transfer(self, protocol: str, targets: Sequence[str]) -> Job:
        """Train on all classes of the source (once for xd and dg); test without training on targets or shifts."""
        suite = next((s for s in SUITES.values() if targets[0] in s.datasets(protocol)), SUITES["all"])
        for name in targets:
            check_choice(f"target of {protocol} from {suite.source}", name, suite.datasets(protocol))
        (config,) = config_files(self.method, protocol, suite.source, SHOTS, self.defaults.config)
        trained = self._train("xd", suite.source, config, self.defaults.output / "xd" / "train")
        return trained, *(self._test(trained, name, self.defaults.output / protocol / "test") for name in targets)

    def fewshot(self, dataset: str, shots: int) -> Job:
        """Train on ``shots`` images of every class, in one or several stages; test on all classes."""
        *first, last = config_files(self.method, "fewshot", dataset, shots, self.defaults.config)
        runs: list[RunSpec] = []
        for config, base in (*((stage, "first_stage") for stage in first), (last, "fewshot")):
            previous = runs[-1] if runs else None
            stage = [METHODS[self.method]["stage_key"], str(previous.folder)] if previous else []
            folder = self.defaults.output / base
            runs.append(self._train("fewshot", dataset, config, folder, shots, stage, first_stage=previous))
        return tuple(runs)


def plan(
    protocol: str,
    methods: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    defaults: RunDefaults,
    shots: Sequence[int] = tuple(FEWSHOT_SHOTS),
) -> list[Job]:
    """Return the jobs of a grid.

    Args:
        protocol: one of ``PROTOCOLS``.
        methods: registry names, or "all" that have settings.
        datasets: see :func:`expand`.
        seeds: random seeds.
        defaults: settings of all runs.
        shots: training images per class, of few-shot learning.

    Raises:
        ValueError: an unknown protocol, method or data set, or no settings.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    names, jobs = expand(protocol, datasets), []
    for method in methods_with_settings(protocol, names) if list(methods) == ["all"] else methods:
        for planner in (Planner(method, seed, defaults) for seed in seeds):
            if protocol in ("xd", "dg"):
                jobs.append(planner.transfer(protocol, names))
            elif protocol == "base2new":
                jobs += [planner.base2new(name) for name in names]
            else:
                counts = (0,) if method in TRAINING_FREE else shots
                jobs += [planner.fewshot(name, k) for name in names for k in counts]
    return jobs


def expand(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the data sets of a command: "all" and "mini" are suites; in xd and dg a source means its targets."""
    known = sorted(path.stem for path in (PROJECT / "configs" / "datasets").glob("*.yaml"))
    suites = SUITES | ({suite.source: suite for suite in SUITES.values()} if protocol in ("xd", "dg") else {})
    names: list[str] = []
    for word in datasets or ("all",):
        check_choice("data set", word, [*SUITES, *known])
        names += suites[word].datasets(protocol) if word in suites else [word]
    return list(dict.fromkeys(names))


def methods_with_settings(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the registered methods that have settings for a protocol on data sets."""
    found = []
    for method in registered_methods():
        with suppress(ValueError):
            plan(protocol, [method], datasets, [1], RunDefaults())
            found.append(method)
    return found


def split_words(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the data sets and the seeds among words: numbers are seeds, and so is a second "all"."""
    every = " ".join(words).replace(",", " ").split()
    datasets = [word for word in every if not word.isdecimal()]
    seeds = [int(word) for word in every if word.isdecimal()]
    if "all" in datasets[1:]:
        datasets, seeds = [datasets[0], *(word for word in datasets[1:] if word != "all")], [*seeds, *SEEDS]
    return datasets or ["all"], seeds or list(SEEDS)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="protocols", description=__doc__.splitlines()[0])
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("method", help="registry name; several with commas; all")
    parser.add_argument("words", nargs="*", help="data sets (names, all, mini) and seeds (numbers, or a second all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done already")
    add_defaults(parser, FEWSHOT_SHOTS)
    args = parser.parse_intermixed_args(argv)
    return report_errors("protocols", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    defaults = RunDefaults.of(args)
    jobs = plan(args.protocol, args.method.split(","), *split_words(args.words), defaults, args.shots)
    runs = [run for job in jobs for run in job]
    if args.dry_run:
        for one in runs:
            print(f"{state(one):<6} {one.command()}")
        return 0
    run_all(runs, args.quiet)
    table = f"python -m experiments.tables {args.output} --table {args.protocol}"
    print(f"{args.protocol}: {len(jobs)} jobs done; the table: {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

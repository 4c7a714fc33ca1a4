"""Plan the runs of a protocol (configs/protocols.yaml) and execute those that are not done.

    python -m experiments.protocols base2new ALIGN caltech101 dtd 1 2 3   # METHOD, data sets, seeds
    python -m experiments.protocols xd ALIGN mini 1    # "mini" is the mini suite, "all" the paper's data sets

Every run is one call of ``train.py``. A finished run is not repeated, an interrupted one resumes, and a folder that
holds a run with other settings is refused.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from dassl.utils.command import Parser

from experiments.runs import PROJECT, RunSpec, command, run_all, state
from prompting.ot.checks import check_choice

SETTINGS = yaml.safe_load((PROJECT / "configs" / "protocols.yaml").read_text(encoding="utf-8"))
METHODS: dict[str, dict[str, Any]] = SETTINGS["methods"]
SEEDS, SHOTS, FEWSHOT_SHOTS = SETTINGS["seeds"], SETTINGS["shots"], SETTINGS["fewshot_shots"]
TRAINING_FREE: list[str] = SETTINGS["training_free"]
FOLDERS = {  # per protocol: folders of training and tests, classes of training and tests
    "base2new": ("base2new/train_base", "base2new/test_new", "base", "new"),
    "xd": ("xd/train", "xd/test", "all", "all"),
    "dg": ("xd/train", "dg/test", "all", "all"),
    "fewshot": ("fewshot", "", "all", "all"),
}
PROTOCOLS = tuple(FOLDERS)
Job = tuple[RunSpec, ...]  # runs that depend on one another, in order: a training and its tests


@dataclass(frozen=True)
class RunDefaults:
    """Settings of all runs of a command."""

    root: str = "data"  # folder of the data sets
    output: Path = Path("output")  # folder of the results
    config: str = ""  # the method's YAML file (a path, or a stem in its folder) in place of the protocol's
    options: tuple[str, ...] = ()  # KEY VALUE words over the YAML files
    plugins: tuple[str, ...] = ()  # Python files that register methods or data sets

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "RunDefaults":
        """Return the defaults from the flags of ``add_defaults``, and import the plugins."""
        import train

        for file in args.plugin:
            train.load_plugin(file)
        return cls(args.root, args.output, args.config, tuple(args.set), tuple(args.plugin))


def add_defaults(parser: argparse.ArgumentParser, root: str = "", output: Path | None = None) -> None:
    """Add the flags of ``RunDefaults``; by default ``root`` is $DATA, or data, and ``output`` $OUTPUT, or output."""
    add, text = parser.add_argument, f"folder of the data sets (default: {root or '$DATA, or data'})"
    output = output or Path(os.environ.get("OUTPUT", "output"))
    add("--root", default=root or os.environ.get("DATA", "data"), help=text)
    add("--output-dir", "--output", dest="output", type=Path, default=output, help="folder of the results")
    config = "the method's YAML file, or its stem, in place of the protocol's"
    add("--config-file", "--config", dest="config", default="", help=config)
    add("--plugin", action="append", default=[], metavar="FILE", help="Python file that registers a method or data set")
    add("--set", nargs="+", default=[], metavar="KEY VALUE", help="config words over the YAML files")


def add_shots(parser: argparse.ArgumentParser) -> None:
    """Add ``--shots`` of few-shot learning."""
    text = f"training images per class of fewshot (default: {' '.join(map(str, FEWSHOT_SHOTS))})"
    parser.add_argument("--shots", type=int, nargs="+", default=FEWSHOT_SHOTS, help=text)


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
    """Return methods in the order of configs/protocols.yaml, then the others by name."""
    names, order = sorted(methods), list(METHODS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def registered_methods() -> list[str]:
    """Return the names in Dassl's trainer registry, in the order of presentation."""
    from dassl.engine import TRAINER_REGISTRY

    import trainers  # noqa: F401  registers the methods

    return presentation_order(TRAINER_REGISTRY.registered_names())


def config_files(method: str, protocol: str, dataset: str, shots: int, config: str = "") -> list[str]:
    """Return the YAML files of a method in a protocol, one per stage; raise ValueError if it has none."""
    check_choice("method", method, registered_methods())
    entry: Any = config or next((s.config for s in SUITES.values() if dataset in (s.source, *s.targets, *s.shifts)), "")
    entry = entry or METHODS.get(method, {}).get("xd" if protocol == "dg" else protocol, "")
    if isinstance(entry, dict):
        entry = entry.get(dataset, entry.get(shots, entry.get("default", "")))
    folder = Path("configs", "trainers", method)
    known = ", ".join(sorted(path.stem for path in (PROJECT / folder).glob("*.yaml"))) or "none"
    remedy = f"name a YAML file with --config-file ({folder} has: {known})"
    if not entry:
        where = f"{method} in {protocol} on {dataset} with {shots} shots"
        raise ValueError(f"configs/protocols.yaml has no settings for {where}; {remedy}")
    stages = [Path(stem) for stem in (entry if isinstance(entry, list) else [entry])]
    files = [stage if stage.suffix in (".yaml", ".yml") else folder / f"{stage}.yaml" for stage in stages]
    if missing := [file for file in files if not (PROJECT / file).is_file()]:
        raise ValueError(f"{method} has no {missing[0]}; {remedy}")
    return [file.as_posix() for file in files]


def published_options(method: str, protocol: str, dataset: str, shots: int, config: str = "") -> list[str]:
    """Return the KEY VALUE words that override a protocol's YAML file; none for the file of a user or a suite."""
    if config or any(s.config for s in SUITES.values() if dataset in (s.source, *s.targets, *s.shifts)):
        return []
    entry = METHODS.get(method, {}).get(f"{'xd' if protocol == 'dg' else protocol}_options", {})
    words = entry.get(dataset, entry.get("default", ""))
    return (words.get(shots, "") if isinstance(words, dict) else words).split()


def plan_job(
    protocol: str, method: str, seed: int, dataset: str, targets: Sequence[str], shots: int, defaults: RunDefaults
) -> Job:
    """Return a training on ``dataset``, in one or several stages, and the tests of its prompts on ``targets``."""
    *first, last = config_files(method, protocol, dataset, shots, defaults.config)
    published = published_options(method, protocol, dataset, shots, defaults.config)
    train, test, train_classes, test_classes = FOLDERS[protocol]
    job: list[RunSpec] = []
    for config, folder in (*((stage, "first_stage") for stage in first), (last, train)):
        previous = job[-1] if job else None
        stage = (METHODS[method]["stage_key"], str(previous.folder)) if previous else ()
        spec = RunSpec(method, dataset, config, defaults.output / folder, shots, seed, defaults.root, train_classes)
        options, learns = (*stage, *published, *defaults.options), method not in TRAINING_FREE
        job.append(replace(spec, options=options, plugins=defaults.plugins, learns=learns, first_stage=previous))
    trained = replace(job[-1], base=defaults.output / test, classes=test_classes, trained=job[-1])
    return *job, *(replace(trained, dataset=name) for name in targets)


def plan(
    protocol: str,
    methods: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    defaults: RunDefaults,
    shots: Sequence[int] = tuple(FEWSHOT_SHOTS),
) -> list[Job]:
    """Return the jobs of a grid.

    ``methods`` are registry names, or "all" for those with settings; ``datasets`` as for :func:`expand`; ``shots`` are
    the training images per class of few-shot learning.

    Raises:
        ValueError: an unknown protocol, method or data set, or a method without settings.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    for method in methods if list(methods) != ["all"] else ():  # before the data sets: CoOp's scripts begin with those
        check_choice("method", method, registered_methods())
    names = expand(protocol, datasets)
    trainings = [(name, [name], SHOTS) for name in names]  # data set, targets of its tests, shots
    if protocol in ("xd", "dg"):  # one training on the source, which both protocols share
        suite = next((s for s in SUITES.values() if names[0] in s.datasets(protocol)), SUITES["all"])
        for name in names:
            check_choice(f"target of {protocol} from {suite.source}", name, suite.datasets(protocol))
        trainings = [(suite.source, names, SHOTS)]
    jobs = []
    for method in methods_with_settings(protocol, names) if list(methods) == ["all"] else methods:
        if protocol == "fewshot":
            trainings = [(name, [], k) for name in names for k in ([0] if method in TRAINING_FREE else shots)]
        jobs += [plan_job(protocol, method, seed, *training, defaults) for seed in seeds for training in trainings]
    return jobs


def expand(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the data sets of a command: "all" and "mini" are suites; in xd and dg a source stands for its targets."""
    known = sorted(path.stem for path in (PROJECT / "configs" / "datasets").glob("*.yaml"))
    suites = SUITES | ({suite.source: suite for suite in SUITES.values()} if protocol in ("xd", "dg") else {})
    names: list[str] = []
    for word in datasets or ("all",):
        check_choice("data set", word, [*SUITES, *known])
        names += suites[word].datasets(protocol) if word in suites else [word]
    return list(dict.fromkeys(names))


def methods_with_settings(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the registered methods with settings for a protocol on these data sets."""
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


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="protocols", doc=__doc__)
    parser.add_argument("protocol", choices=PROTOCOLS, help="what to train on and to test on")
    parser.add_argument("method", help="registry name; several with commas; all")
    parser.add_argument("words", nargs="*", help="data sets (names, all, mini) and seeds (numbers, or a second all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done already")
    add_defaults(parser)
    add_shots(parser)
    args = parser.parse_intermixed_args(argv)
    defaults = RunDefaults.from_args(args)
    jobs = plan(args.protocol, args.method.split(","), *split_words(args.words), defaults, args.shots)
    runs = [run for job in jobs for run in job]
    if args.dry_run:
        for one in runs:
            print(f"{state(one):<6} {one.command()}")
        return
    run_all(runs, args.quiet)
    table = f"python -m experiments.tables {args.output} --table {args.protocol}"
    print(f"{args.protocol}: {len(jobs)} jobs done; the table: {table}")


if __name__ == "__main__":
    sys.exit(main())

"""The protocols: what to train, what to test it on, with which settings; and doing what is not done yet.

    python scripts/protocols.py base2new ALIGN caltech101 dtd 1 2 3   # METHOD, data sets, seeds
    python scripts/protocols.py xd ALIGN mini 1    # "mini" is the mini suite, "all" the sets of the paper

Every run is one call of ``train.py``. A finished run is not run again, an interrupted one resumes, and a folder that
holds a run with other settings is refused.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.runs import PROJECT, Run, commands, in_one_line, run_all, state  # noqa: E402

SEEDS = (1, 2, 3)
SHOTS = 16
FEWSHOT = (1, 2, 4, 8, 16)
PROTOCOLS = ("base2new", "xd", "dg", "fewshot")
LEARNS_NOTHING = ("ZeroshotCLIP",)


@dataclass(frozen=True)
class Suite:
    """Data sets that belong together, under the names of their YAML files.

    Args:
        source: what xd and dg train on.
        others: the other data sets, in the order of the paper's tables.
        shifts: the source's classes under other distributions.
    """

    source: str
    others: tuple[str, ...]
    shifts: tuple[str, ...]

    def datasets(self, protocol: str) -> tuple[str, ...]:
        """Return what ``protocol`` reports: data sets, targets or shifts."""
        return {"xd": self.others, "dg": self.shifts}.get(protocol, (self.source, *self.others))


SUITES = {
    "all": Suite(
        "imagenet",
        ("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397", "dtd",
         "eurosat", "ucf101"),
        ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    ),
    "mini": Suite(
        "mini_source",
        ("mini_colors", "mini_counts", "mini_relations", "mini_textures", "mini_letters", "mini_digits"),
        ("mini_source_v2", "mini_sketch", "mini_clutter", "mini_rendition"),
    ),
}  # fmt: skip

# Method -> protocol -> YAML in configs/trainers/<method>/. "protocol/dataset" goes before "protocol"; few-shot settings
# may go by shots; a tuple trains one stage after the other. dg trains what xd trains; the mini suite takes mini.yaml.
STAGE_KEYS = {"PLOTPP": "TRAINER.PLOTPP.PRETRAIN_DIR"}  # what tells a stage the folder of the one before


def _by_shots(one: Any, few: Any, many: Any) -> dict[int, Any]:
    """Return settings that differ for 1, for 2 and 4, and for 8 and 16 shots."""
    return {1: one, **dict.fromkeys((2, 4), few), **dict.fromkeys((8, 16), many)}


def _same(config: str) -> dict[str, Any]:
    return dict.fromkeys(("base2new", "xd", "fewshot"), config)


_COOP = _by_shots("vit_b16_ep50", "vit_b16_ep100", "vit_b16")
_LIKE_COOP = {**_same("vit_b16_ep50"), "fewshot": _COOP, "fewshot/imagenet": "vit_b16_ep50"}
_LIKE_ALIGN = _by_shots("vit_b16_fewshot_1shot", "vit_b16_fewshot_2shot_4shot", "vit_b16_fewshot_8shot_16shot")
CONFIGS: dict[str, dict[str, Any]] = {
    "ZeroshotCLIP": _same("vit_b16"),
    "CoOp": {
        **_LIKE_COOP,
        "base2new": "vit_b16_ctxv1",
        "base2new/imagenet": "vit_b16_ep50_ctxv1",
        "xd": "vit_b16_ep50_ctxv1",
    },
    "CoCoOp": _same("vit_b16_c4_ep10_batch1_ctxv1"),
    "ProDA": _LIKE_COOP,
    "PLOT": {  # published for RN50 in few-shot learning
        **_same("vit_b16_ep50"),
        "fewshot": _by_shots("rn50", "rn50_ep100", "rn50_ep200"),
        "fewshot/imagenet": "rn50",
    },
    "PLOTPP": {
        **_same("vit"),
        "fewshot": _by_shots(
            ("vit_vision", "vit_joint"),
            ("vit_vision_ep100", "vit_joint_ep100"),
            ("vit_vision_ep200", "vit_joint_ep200"),
        ),
        "fewshot/imagenet": ("vit_vision", "vit_joint"),
    },
    "VPT": _same("vit_b16_c2_ep5_batch4_4"),
    "UPT": _LIKE_COOP,
    "IVLP": _same("vit_b16_c2_ep5_batch4_2+2ctx"),
    "MaPLe": {
        "base2new": "vit_b16_c2_ep5_batch4_2ctx",
        "xd": "vit_b16_c2_ep5_batch4_2ctx_cross_datasets",
        "fewshot": _LIKE_ALIGN,
        "fewshot/imagenet": "vit_b16_fewshot_imagenet",
    },
    "ALIGN": {
        **_same("vit_b16_base2new"),
        "base2new/sun397": "vit_b16_base2new_sun397",
        "fewshot": _LIKE_ALIGN,
        "fewshot/imagenet": "vit_b16_base2new",
    },
    "MMP": {
        **_same("vit_b16_c2_ep5_batch4_2ctx"),
        "base2new/sun397": "sun397",
        "fewshot": _LIKE_ALIGN,
        "fewshot/imagenet": "vit_b16_c2_ep5_batch4_2ctx",
    },
}

# Method -> data set -> KEY VALUE words over the few-shot YAML, where what is published differs for one data set.
_TWO = "TRAINER.{0}.TEXT_PROMPT_NUMBER 2 TRAINER.{0}.VISION_PROMPT_NUMBER 2"
_SUN397 = f"{_TWO} OPTIM.LR 0.002 DATALOADER.TEST.BATCH_SIZE 4"
FEWSHOT_WORDS: dict[str, dict[str, str]] = {
    "PLOT": {
        "imagenet": "TRAINER.PLOT.TRADE_OFF True",
        **dict.fromkeys(("oxford_flowers", "fgvc_aircraft", "stanford_cars"), "DATALOADER.TRAIN_X.BATCH_SIZE 32"),
    },
    "ALIGN": {"sun397": _SUN397.format("ALIGN")},
    "MMP": {"sun397": _SUN397.format("MMP")},
}


@dataclass(frozen=True)
class Place:
    """What all runs of a call have in common.

    Args:
        root: folder of the data sets.
        output: folder of the results.
        config: a YAML file's stem for all of them, instead of ``CONFIGS``.
        words: KEY VALUE words over the YAML files.
    """

    root: str = "data"
    output: Path = Path("output")
    config: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Runs that need one another, in order: a training and its tests."""

    protocol: str
    method: str
    dataset: str
    shots: int
    seed: int
    runs: tuple[Run, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Planning
# ---------------------------------------------------------------------------------------------------------------------
def configs_of(method: str, protocol: str, dataset: str, shots: int, asked: str = "") -> tuple[str, ...]:
    """Return the stems of the YAML files of a method in a protocol, one a stage.

    Raises:
        ValueError: none is known; names those that exist.
    """
    found: Any = asked or ("mini" if dataset.startswith("mini_") else "")
    if not found:
        table = CONFIGS.get(method, {})
        key = "xd" if protocol == "dg" else protocol
        found = table.get(f"{key}/{dataset}", table.get(key))
        if isinstance(found, dict):
            found = found.get(shots)
    stages = found if isinstance(found, tuple) else (found,)
    folder = PROJECT / "configs" / "trainers" / method
    missing = next((stem for stem in stages if not stem or not (folder / f"{stem}.yaml").is_file()), stages)
    if missing is stages:
        return stages
    there = sorted(path.stem for path in folder.glob("*.yaml"))
    if not there:
        methods = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise ValueError(f"no settings for method {method}{near(method, methods)}; there are {', '.join(methods)}")
    what = f"{missing}.yaml" if missing else f"settings for {protocol} on {dataset} with {shots} shots"
    raise ValueError(f"{method} has no {what}; name one with --config: {', '.join(there)}")


def near(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the known word nearest to ``word``, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _words(place: Place, method: str, dataset: str, config: str, shots: int, seed: int, folder: Path) -> list[str]:
    return [
        *("--root", place.root, "--seed", str(seed), "--trainer", method),
        *("--dataset-config-file", f"configs/datasets/{dataset}.yaml"),
        *("--config-file", f"configs/trainers/{method}/{config}.yaml"),
        *("--output-dir", str(folder), "DATASET.NUM_SHOTS", str(shots)),
        *("TRAIN.CHECKPOINT_FREQ", "1", *place.words),
    ]


def _train(
    place: Place, method: str, dataset: str, config: str, shots: int, seed: int, base: Path, half: str = "all"
) -> Run:
    """Return the run that trains, and tests on what it trained on."""
    folder = base / dataset / f"shots_{shots}" / method / config / f"seed{seed}"
    words = _words(place, method, dataset, config, shots, seed, folder)
    part = f"train on {'base' if half == 'base' else dataset}"
    return Run(method, dataset, seed, part, folder, (*words, "DATASET.SUBSAMPLE_CLASSES", half))


def _test(place: Place, trained: Run, dataset: str, config: str, base: Path, half: str = "all") -> Run:
    """Return the run that tests the prompts of ``trained``."""
    method, seed = trained.method, trained.seed
    folder = base / dataset / f"shots_{SHOTS}" / method / config / f"seed{seed}"
    words = _words(place, method, dataset, config, SHOTS, seed, folder)
    model = () if method in LEARNS_NOTHING else ("--model-dir", str(trained.folder))
    flags, pairs = words[: words.index("DATASET.NUM_SHOTS")], words[words.index("DATASET.NUM_SHOTS") :]
    part = f"test on {'new' if half == 'new' else dataset}"
    words = [*flags, "--eval-only", *model, *pairs, "DATASET.SUBSAMPLE_CLASSES", half]
    return Run(method, dataset, seed, part, folder, tuple(words), trained)


def base2new(method: str, dataset: str, seed: int, place: Place, under: str = "base2new") -> Job:
    """Train on the base half of the classes; test on it and on the new half."""
    output, (config,) = place.output / under, configs_of(method, "base2new", dataset, SHOTS, place.config)
    trained = _train(place, method, dataset, config, SHOTS, seed, output / "train_base", "base")
    tested = _test(place, trained, dataset, config, output / "test_new", "new")
    return Job("base2new", method, dataset, SHOTS, seed, (trained, tested))


def transfer(protocol: str, method: str, targets: Sequence[str], seed: int, place: Place) -> Job:
    """Train on all classes of the source (once for xd and dg); test as it is on targets or shifts."""
    suite = SUITES["mini" if targets[0] in (*SUITES["mini"].others, *SUITES["mini"].shifts) else "all"]
    foreign = [name for name in targets if name not in suite.datasets(protocol)]
    if foreign:
        allowed = suite.datasets(protocol)
        raise ValueError(
            f"{foreign[0]} is no target of {protocol} from {suite.source}{near(foreign[0], allowed)}; "
            f"there are {', '.join(allowed)}"
        )
    (config,) = configs_of(method, protocol, suite.source, SHOTS, place.config)
    trained = _train(place, method, suite.source, config, SHOTS, seed, place.output / "xd" / "train")
    tests = [_test(place, trained, name, config, place.output / protocol / "test") for name in targets]
    return Job(protocol, method, suite.source, SHOTS, seed, (trained, *tests))


def fewshot(method: str, dataset: str, shots: int, seed: int, place: Place) -> Job:
    """Train on ``shots`` images of every class, test on all classes."""
    *first, last = configs_of(method, "fewshot", dataset, shots, place.config)
    own = "" if place.config else FEWSHOT_WORDS.get(method, {}).get(dataset, "")
    runs: list[Run] = []
    for config, base in (*((stage, "first_stage") for stage in first), (last, "fewshot")):
        before = (STAGE_KEYS[method], str(runs[-1].folder)) if runs else ()
        at = replace(place, words=(*before, *own.split(), *place.words))
        one = _train(at, method, dataset, config, shots, seed, place.output / base)
        runs.append(replace(one, start=runs[-1] if runs else None))
    return Job("fewshot", method, dataset, shots, seed, tuple(runs))


def plan(
    protocol: str,
    methods: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    place: Place,
    shots: Sequence[int] = FEWSHOT,
) -> list[Job]:
    """Return the jobs of a grid.

    Args:
        protocol: one of ``PROTOCOLS``.
        methods: registry names, or "all" that have settings.
        datasets: stems of YAML files; "all" and "mini" stand for a suite's; a source stands for its targets.
        seeds: the seeds.
        place: what all runs share.
        shots: of few-shot learning.

    Raises:
        ValueError: an unknown protocol, method or data set, or no settings.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol}{near(protocol, PROTOCOLS)}; there are {', '.join(PROTOCOLS)}")
    names = expand(protocol, datasets)
    chosen = methods_with_settings(protocol, names) if list(methods) == ["all"] else list(methods)
    jobs = []
    for method in chosen:
        for seed in seeds:
            if protocol in ("xd", "dg"):
                jobs.append(transfer(protocol, method, names, seed, place))
                continue
            for name in names:
                if protocol == "base2new":
                    jobs.append(base2new(method, name, seed, place))
                else:  # without learning there is nothing that shots could change
                    each = (0,) if method in LEARNS_NOTHING else shots
                    jobs += [fewshot(method, name, k, seed, place) for k in each]
    return jobs


def expand(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the data sets that words stand for (see ``plan``), each once, in order.

    Raises:
        ValueError: there is no such data set.
    """
    known = sorted(path.stem for path in (PROJECT / "configs" / "datasets").glob("*.yaml"))
    sources = {suite.source: suite for suite in SUITES.values()} if protocol in ("xd", "dg") else {}
    names: list[str] = []
    for word in datasets or ("all",):
        suite = SUITES.get(word) or sources.get(word)
        if suite is None and word not in known:
            raise ValueError(f"no data set {word}{near(word, known)}; there are all, mini, {', '.join(known)}")
        names += suite.datasets(protocol) if suite else [word]
    return list(dict.fromkeys(names))


def methods_with_settings(protocol: str, datasets: Sequence[str]) -> list[str]:
    """Return the methods that have settings for a protocol on data sets, in the order of presentation."""
    from trainers import METHODS

    found = []
    for method in METHODS:
        try:
            plan(protocol, [method.__name__], datasets, [1], Place())
        except ValueError:
            continue
        found.append(method.__name__)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------------------------------
def split_words(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the data sets and the seeds among words: numbers are seeds, and so is a second "all"."""
    datasets: list[str] = []
    seeds: list[int] = []
    for word in (part for given in words for part in given.replace(",", " ").split()):
        if re.fullmatch(r"\d+", word):
            seeds.append(int(word))
        elif word == "all" and datasets:
            seeds += SEEDS
        else:
            datasets.append(word)
    return datasets or ["all"], seeds or list(SEEDS)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that :func:`place_of` reads."""
    add = parser.add_argument
    add("--root", default=os.environ.get("DATA", "data"), help="folder of the data sets (default: $DATA, or data)")
    add("--output", type=Path, default=Path(os.environ.get("OUTPUT", "output")), help="folder of the results")
    add("--config", default="", help="stem of the method's YAML file, instead of the protocol's own")
    add("--shots", type=int, nargs="+", default=list(FEWSHOT), help="of fewshot (default: 1 2 4 8 16)")
    add("--set", nargs="+", default=[], metavar="KEY VALUE", help="config words over the YAML files")


def place_of(args: argparse.Namespace) -> Place:
    """Return what the flags say."""
    return Place(args.root, args.output, args.config, tuple(args.set))


def prepare_root(root: str, runs: Iterable[Run]) -> None:
    """Make the folder of data sets where only mini sets go into it: they are drawn when they are missing."""
    if all(run.dataset.startswith("mini_") for run in runs):
        (PROJECT / root).mkdir(parents=True, exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("method", help="registry name; several with commas; all")
    parser.add_argument("words", nargs="*", help="data sets (names, all, mini) and seeds (numbers, or a second all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done already")
    add_place(parser)
    args = parser.parse_intermixed_args()
    return in_one_line("protocols", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    datasets, seeds = split_words(args.words)
    jobs = plan(args.protocol, args.method.split(","), datasets, seeds, place_of(args), args.shots)
    runs = [run for job in jobs for run in job.runs]
    if args.dry_run:
        for one, command in zip(runs, commands(runs)):
            print(f"{state(one):<6} {command}")
        return 0
    prepare_root(args.root, runs)
    run_all(runs, args.quiet)
    table = f"python scripts/tables.py {args.output} --table {args.protocol}"
    print(f"{args.protocol}: {len(jobs)} jobs done; the table: {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generated command lines: each is refused in one line that names what is wrong, or the run gets what was asked for."""

import argparse
import contextlib
import io
import re
from ast import literal_eval
from functools import reduce
from typing import Any

import pytest
from dassl.config.node import leaves
from hypothesis import strategies as st

import train
from tests.reference.generated import generated

FLAGS = ["--root", "--output-dir", "--resume", "--seed", "--config-file", "--dataset-config-file", "--trainer",
    "--backbone", "--head", "--device", "--max-memory", "--plugin", "--model-dir", "--load-epoch",
    "--source-domains", "--transforms"]  # fmt: skip
SWITCHES = ["--eval-only", "--no-train", "--traceback"]
FILES = ["configs/trainers/ALIGN/mini.yaml", "configs/datasets/mini_source.yaml", "LICENSE", "docs", "nowhere.yaml"]
NAMES = ["ALIGN", "CoOp", "MaPLe", "Align", "MiniSource", "cpu", "cuda:7", "ViT-B/16", "RN50"]
KEYS = dict(leaves(train.setup_cfg(train.parse_args([]))))

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
numbers = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.sampled_from(["1e400", "-0", "0x10", "1_000"]))
literals = st.sampled_from(
    ["True", "None", "()", "(1, 2)", "[]", "{}", "{'A': 1}", "'a'", "(" * 300, "[" * 5000, "--", "-"]
)
values = st.one_of(numbers.map(str), text, st.sampled_from(FILES + NAMES), literals)
flags = st.one_of(
    st.tuples(st.sampled_from(FLAGS), values),
    st.tuples(st.sampled_from(FLAGS), values).map(lambda pair: (f"{pair[0]}={pair[1]}",)),
    st.tuples(st.sampled_from(SWITCHES)),
    st.tuples(st.sampled_from(FLAGS)),  # without a value
    st.tuples(text.map("--".__add__), values),
)
nodes = [key.rpartition(".")[0] for key in KEYS if "." in key]
names = st.sampled_from(list(KEYS))
keys = st.one_of(names, names.map(str.lower), st.sampled_from(nodes), text)
fitting = {bool: st.booleans(), int: st.integers(-3, 40), float: st.floats(), str: st.sampled_from(FILES + NAMES)}
fair = st.sampled_from([key for key, value in KEYS.items() if type(value) in fitting]).flatmap(
    lambda key: st.tuples(st.just(key), fitting[type(KEYS[key])].map(str))
)
pairs = st.one_of(fair, fair, fair, st.tuples(keys, values), st.tuples(keys))
GOOD = ["--trainer", "ALIGN", "--dataset-config-file", FILES[1]]
lines = st.tuples(
    st.booleans(),
    st.lists(flags, max_size=3),
    st.lists(pairs, max_size=3),
    st.one_of(st.just([]), st.just([]), st.lists(flags, max_size=1)),
).map(lambda parts: (GOOD if parts[0] else []) + [word for part in parts[1:] for item in part for word in item])


class Recorder:
    """Stands for the trainer: the config that it gets, and what it is asked to do."""

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.calls = cfg, []
        Recorder.last = self

    def get_model_names(self) -> list[str]:
        return []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def outcome(words: list[str]) -> tuple[int, str, Any]:
    """Exit code, stderr and recorder of a command line; one that is refused prints nothing else."""
    Recorder.last, err, out = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            code = train.main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
    assert not code or not out.getvalue()
    return code, err.getvalue(), Recorder.last


def check(words: list[str]) -> None:
    words = [word for word in words if word != "--traceback"]
    code, err, recorder = outcome(words)
    if code:
        assert code in (1, 2) and err.startswith("train.py: error: ") and err.count("\n") == 1, err
        assert err.isprintable() or err.rstrip("\n").isprintable()
        assert len(err) < 1300 and not re.search(r"\(\w+ in \w+\.py:\d+\)", err), "no message for users: " + err
        assert recorder is None
    elif "-h" not in words and not any("--help".startswith(word) for word in words if word.startswith("--h")):
        args: argparse.Namespace = train.parse_args(words)
        said = dict(zip(args.opts[::2], args.opts[1::2]))
        assert not any(word.startswith("-") for word in said), "a flag was taken for a key"
        assert [name for name, *_ in recorder.calls] == (
            ["load_model", "test"] if args.eval_only else [] if args.no_train else ["train"]
        )
        for key, value in said.items():
            found = reduce(lambda node, part: node[part], key.split("."), recorder.cfg)
            if value in ("True", "False") or re.fullmatch(r"-?\d+", value):
                assert found == literal_eval(value)
            else:
                assert value in (str(found), repr(found)) or re.search(r"[\W\d_]", value), (key, found)


@pytest.fixture
def no_run(monkeypatch):
    monkeypatch.setattr(train, "build_trainer", Recorder)
    monkeypatch.setattr(train, "setup_logger", lambda folder, wait: None)
    for name in ("collect_env_info", "lock_folder", "summary", "warn_of_few_images"):
        monkeypatch.setattr(train, name, lambda *of: "")
    monkeypatch.setattr(train, "set_random_seed", lambda seed: None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TRAINER.NAME is not set: give --trainer; allowed: "),
        (["--trainer", "ALIGN"], "DATASET.NAME is not set: give --dataset-config-file"),
        ([*GOOD, "OPTIM.LR", "0.1", "--output-dir", "x"], "--output-dir is behind KEY VALUE pairs"),
        ([*GOOD, "OPTIM.LR", "0.1", "--output-dir=x"], "--output-dir is behind KEY VALUE pairs"),
    ],
)
def test_words_that_are_missing_or_misplaced(no_run, words, message):
    check(words)
    assert message in outcome(words)[1]


@pytest.mark.usefixtures("no_run")
@generated(150, 4000, words=lines)
def test_command_lines(folder, words):
    check(words)

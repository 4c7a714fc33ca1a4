"""``--help`` of every command: examples that are taken, a text for every option, and flags that mean one thing."""

import argparse
import re
import shlex
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pytest

from tests.reference.doc_commands import PROJECT, module_call
from tests.reference.parsers import leaves, parsed

FOLDERS = ("datasets", "engine", "experiments", "prompting", "scripts")
# started by others with one case in JSON; another name of `align-clip explain`
INTERNAL = {"scripts.bench.measure", "prompting.export.measure", "prompting.explain"}
FILES = [PROJECT / "train.py", *(file for folder in FOLDERS for file in sorted((PROJECT / folder).rglob("*.py")))]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__main__")


MODULES = [module_of(file) for file in FILES if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")]
MODULES = [module for module in MODULES if module not in INTERNAL]


@lru_cache
def parsers_of(module: str) -> list[argparse.ArgumentParser]:
    """Return the parsers of a module's commands."""
    return list(leaves(parsed(module, None)[0]))


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


@pytest.mark.parametrize("module", MODULES)
def test_the_help_has_two_examples_which_are_taken(module):
    for parser in parsers_of(module):
        text = parser.format_help().replace("\\\n", " ")
        examples = re.findall(r"^ +((?:python|align-clip) .*)", text, re.M)
        assert len(examples) >= 2, text
        for example in examples:
            name, words = module_call(shlex.split(example, comments=True))
            assert name == module or (name, words[0]) == ("prompting", module.split(".")[-1])
            parsed(name, words)


@pytest.mark.parametrize("module", MODULES)
def test_every_option_has_a_text(module):
    for parser in parsers_of(module):
        assert parser.description, parser.prog
        silent = [action.option_strings or action.dest for action in options(parser) if not (action.help or "").strip()]
        assert not silent, parser.prog


def kind(action: argparse.Action) -> str:
    """What a flag takes, one or several of them."""
    return "nothing" if action.nargs == 0 else {int: "whole number", float: "number"}.get(action.type, "text")


def test_a_flag_means_the_same_everywhere():
    found = defaultdict(lambda: defaultdict(set))
    for parser in (parser for module in MODULES for parser in parsers_of(module)):
        for action in options(parser):
            for flag in action.option_strings[:1]:  # the others are older names
                found[flag][kind(action)].add(parser.prog)
    assert not {flag: dict(kinds) for flag, kinds in found.items() if len(kinds) > 1}
    assert {"--output-dir", "--config-file", "--seeds"} <= set(found)
    assert not {"--out", "--output", "--config"} & set(found)

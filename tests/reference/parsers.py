"""The argument parser of a command, and what it makes of words, without running the command."""

import argparse
import contextlib
import io
import logging
import runpy
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class _Parsed(BaseException):
    """Ends a command after its words were parsed."""


def parsed(module: str, words: Sequence[str] | None) -> tuple[ArgumentParser, Namespace]:
    """Return the parser of a module that is run as a program, and the arguments that it makes of words.

    With None instead of words, nothing is parsed.

    Raises:
        SystemExit: the words are refused; its text is the message.
    """
    inside, original = 0, {name: getattr(ArgumentParser, name) for name in METHODS}

    def ending(name: str) -> Callable[..., Any]:
        def parse(parser: ArgumentParser, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if words is None:
                raise _Parsed(parser, Namespace())
            inside += 1
            try:
                result = original[name](parser, *args, **kwargs)
            finally:
                inside -= 1
            if inside:
                return result
            raise _Parsed(parser, result[0] if isinstance(result, tuple) else result)

        return parse

    errors, before, logger = io.StringIO(), sys.argv, logging.getLogger("dassl")
    level = logger.level  # which some commands raise
    try:
        for name in METHODS:
            setattr(ArgumentParser, name, ending(name))
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            sys.argv = [module, *(words or [])]
            runpy.run_module(module, run_name="__main__")
    except _Parsed as end:
        return end.args
    except SystemExit as stop:
        raise SystemExit(f"{module} {' '.join(words or [])}: {errors.getvalue()}") from stop
    finally:
        sys.argv = before
        logger.setLevel(level)
        for name in METHODS:
            setattr(ArgumentParser, name, original[name])
    raise AssertionError(f"{module} has parsed nothing: {errors.getvalue()}")


METHODS = ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args")


def leaves(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """Yield the parsers that run something: a parser without subcommands, or those of its subcommands."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for one in action.choices.values():
            yield from leaves(one)

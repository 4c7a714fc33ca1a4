"""What every command does with a mistake: one line on stderr, or with ``--traceback`` everything."""

import argparse
import atexit
import contextlib
import functools
import io
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, NoReturn

from .registry import NamedKeyError, did_you_mean
from .stopping import end_workers, ignore_signals, interruption, stop_on_signals

LONGEST = 1000  # characters of a message; a longer one is shortened in its middle
PACKAGES = ("dassl", "prompting", "yacs")  # their errors are written for users, installed or not
HINTS = {
    "out of memory": "use smaller batches, or set TRAIN.MAX_MEMORY_GB",
    "can't allocate memory": "use smaller batches, or set TRAIN.MAX_MEMORY_GB",
    "DataLoader worker": "set DATALOADER.NUM_WORKERS 0",
    "Too many open files": "set DATALOADER.NUM_WORKERS 0, or raise the limit (ulimit -n)",
}


def one_line(error: BaseException) -> str:
    """Return an error as one line: its message, its kind and place unless it was raised for users, and a hint."""
    words = _message(error)
    from_worker = "Original Traceback" in words  # of a data loader's worker process
    if from_worker:
        kind, _, words = words.strip().splitlines()[-1].partition(": ")
        words = words or kind
    words = shorten(words)
    if not (words and (from_worker or _explained(error))):
        words = f"{words or 'no message'} ({type(error).__name__} in {_place(error)})"
    hint = next((hint for found, hint in HINTS.items() if found in words and hint not in words), "")
    return f"{words}; {hint}" if hint else words


def shorten(words: str) -> str:
    """Return a message in one line, with escapes for what cannot be printed, without the middle of a long one."""
    words = " ".join(words.split())
    words = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in words)
    return words if len(words) <= LONGEST else f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"


def _message(error: BaseException) -> str:
    if isinstance(error, KeyError):
        named = isinstance(error, NamedKeyError) or not error.args
        return str(error) if named or " " in str(error.args[0]) else f"missing key {error.args[0]!r}"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        file = error.filename
        return f"{error.strerror}: {os.fsdecode(file) if isinstance(file, bytes) else file}"
    kinds = {MemoryError: "out of memory", RecursionError: "nested too deeply"}
    return next((f"{words} {error}" for kind, words in kinds.items() if isinstance(error, kind)), str(error))


def _explained(error: BaseException) -> bool:
    """Return whether an error names a file, or was raised on purpose by this project, not by a built-in function."""
    if isinstance(error, (MemoryError, RecursionError)):
        return False
    last = next(reversed(traceback.extract_tb(error.__traceback__)), None)
    on_purpose = last is None or (_is_ours(last.filename) and (last.line or "raise").startswith(("raise", "assert")))
    return on_purpose or (isinstance(error, OSError) and error.filename is not None)


def _is_ours(file: str) -> bool:
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1] in PACKAGES
    return not file.startswith(("<", sysconfig.get_path("stdlib")))


def _place(error: BaseException) -> str:
    """Return the last line of this project that the error passed, else the last line of all, as "file:line"."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(reversed([frame for frame in frames if _is_ours(frame.filename)] or frames), None)
    return f"{Path(frame.filename).name}:{frame.lineno}" if frame else "an unknown place"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest flag for one that does not exist.

    Args:
        doc: a module's docstring: paragraphs that start with ``python`` are examples, the others the description.
    """

    def __init__(self, *args: Any, doc: str | None = None, **kwargs: Any) -> None:
        if doc:
            parts = [dedent(part) for part in doc.strip().split("\n\n")]
            examples = [indent(part, "  ") for part in parts if part.startswith("python ")]
            kwargs["description"] = "\n\n".join(part for part in parts if not part.startswith("python "))
            kwargs["epilog"] = "\n".join(["examples:", *examples])
            kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        start, _, flag = message.partition("unrecognized arguments: ")
        hint = "" if start else did_you_mean(re.split("[ =]", flag)[0], self._option_string_actions)
        self.exit(2, f"{self.prog}: error: {shorten(message)}{hint} (--help shows all flags)\n")


def show_all_letters() -> None:
    """Let stdout and stderr write as escapes what their encoding lacks (a ± in ASCII, a name that is not UTF-8)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # of a file whose descriptor is a pipe by now
                stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Let the process's stdout write to nowhere, after its reader has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def command(
    name: str, interrupted: str = "interrupted"
) -> Callable[[Callable[[Sequence[str]], int | None]], Callable[..., int]]:
    """Decorate a command, a function of its words; the result takes the words, or None for those of the process.

    A mistake is one line on stderr and exit code 1; Ctrl-C, SIGTERM and SIGHUP end the command and its data workers
    with one line and exit code 128 + the signal's number. If whoever reads the output has gone (``| head``), the
    command ends without a word, with exit code 141. ``--traceback`` among the words, or the environment variable
    ALIGN_TRACEBACK, shows where an error was raised.

    Args:
        name: the command, as the line starts.
        interrupted: the line after a signal, unless the ``KeyboardInterrupt`` has a text of its own.
    """

    def decorate(main: Callable[[Sequence[str]], int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(words: Sequence[str] | None = None) -> int:
            words = list(sys.argv[1:] if words is None else words)
            shown = "--traceback" in words or bool(os.environ.get("ALIGN_TRACEBACK"))
            show_all_letters()
            with stop_on_signals():
                try:
                    return main([word for word in words if word != "--traceback"]) or 0
                except (KeyboardInterrupt, Exception) as error:
                    if stop := interruption(error):
                        end_workers()
                        atexit.register(ignore_signals)  # a second Ctrl-C while Python ends
                        own = stop.args[0] if stop.args and isinstance(stop.args[0], str) else ""
                        note = f"interrupted; {own}" if own else interrupted
                        if error is not stop and not isinstance(error, (ImportError, BrokenPipeError)):
                            note = f"{note}; then {traceback.format_exc().rstrip() if shown else one_line(error)}"
                        return _say(f"{name}: {note}", getattr(stop, "exit_code", 130))
                    if isinstance(error, BrokenPipeError):
                        drop_output()
                        return 141
                    if shown:
                        return _say(traceback.format_exc().rstrip(), 1)
                    return _say(f"{name}: error: {one_line(error)} (--traceback shows where)", 1)
                finally:  # at exit, Python would report a broken pipe
                    try:
                        sys.stdout.flush()
                    except BrokenPipeError:
                        drop_output()

        return run

    return decorate


def _say(line: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
    return code

"""``align-clip COMMAND ...``, or ``python -m prompting COMMAND ...``: use a trained run."""

# ruff: noqa: E402
import multiprocessing
import os
import signal
import sys


def end(number: int, frame: object) -> None:
    """End the process at once, with one line: only imports have run so far, so nothing has been written."""
    if multiprocessing.parent_process() is None:
        os.write(2, b"align-clip: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__" or os.path.basename(sys.argv[0]).startswith("align-clip"):  # not another program's import
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)

import argparse
import io
import pkgutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from prompting import commands

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)  # their messages are written for users
LONGEST = 1000  # characters of a message; a longer one is shortened in its middle


class Stopped(KeyboardInterrupt):
    """A signal that ends the program; ``exit_code`` is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise :class:`Stopped` on Ctrl-C, SIGTERM and SIGHUP in the block.

    So files in progress are removed; while that happens, further signals do nothing. Worker processes that get one end
    without a word.
    """
    process, before = os.getpid(), dict[int, Any]()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker
            os._exit(128 + number)
        if interruption(sys.exc_info()[1]) is None:
            raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():  # ignore Ctrl-C while Python shuts down
            signal.signal(number, signal.SIG_IGN if handler is end else handler)


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt in an error's chain of contexts: some imports raise another error after one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def end_workers() -> None:
    """End the processes that read images, at once."""
    if children := multiprocessing.active_children():
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report workers that were killed
        for child in children:
            child.kill()
            child.join()
        signal.signal(signal.SIGCHLD, before)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    The code is 0, 2 after an error (one line on stderr), 141 without a message if the output's reader has gone
    (``| head``), or one that its ``--help`` describes. Ctrl-C, SIGTERM and SIGHUP end the command with one line
    and the code 128 + the signal's number.
    """
    words = list(sys.argv[1:] if words is None else words)
    shown = "--traceback" in words or bool(os.environ.get("ALIGN_TRACEBACK"))  # at any place, as in ``train.py``
    name = "align-clip"
    for stream in (sys.stdout, sys.stderr):  # letters that an encoding lacks (a name that is not UTF-8) are escapes
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a file whose descriptor is a pipe by now
                stream.reconfigure(errors="backslashreplace")
    try:
        commands_parser = parser()  # imports all commands
        with stop_on_signals():
            try:
                args = commands_parser.parse_args([word for word in words if word != "--traceback"])
                name = f"align-clip {args.command}"
                if empty := next((key for key, value in vars(args).items() if value == ""), None):
                    if empty == "run_folder":
                        raise ValueError("RUN is empty: give the output folder of a run")
                    raise ValueError(f"--{empty.replace('_', '-')} is empty: leave it out, or give a value")
                code = args.run(args)
                sys.stdout.flush()
                return code
            except (KeyboardInterrupt, Exception) as error:
                if (stop := interruption(error)) is None:
                    raise
                end_workers()
                later = "" if error is stop or isinstance(error, ImportError) else f"; then {one_line(error)}"
                print(f"{name}: interrupted{later}", file=sys.stderr)
                return getattr(stop, "exit_code", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # at exit, Python would report a broken pipe
        return 141
    except Exception as error:
        if shown:
            raise
        print(f"{name}: error: {one_line(error)} (--traceback shows where)", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = argparse.ArgumentParser(prog="align-clip", description="Use a trained run.")
    subparsers = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for info in pkgutil.iter_modules(commands.__path__):
        module = import_module(f"{commands.__name__}.{info.name}")
        about = (module.__doc__ or "").strip()
        form = argparse.RawDescriptionHelpFormatter
        command = subparsers.add_parser(info.name, help=about.splitlines()[0], description=about, formatter_class=form)
        module.add_arguments(command)
        command.add_argument("--traceback", action="store_true", help="show where an error was raised")
        command.set_defaults(run=module.run)
    return made


def one_line(error: BaseException) -> str:
    """Return an error as one line, with type, file and line unless it is one of ``USER_ERRORS`` with a message."""
    words = " ".join(str(error).split())
    words = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in words)
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"
    if words and isinstance(error, USER_ERRORS):
        return words
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{words or 'no message'} ({type(error).__name__} in {Path(frame.filename).name}:{frame.lineno})"


if __name__ == "__main__":
    sys.exit(main())

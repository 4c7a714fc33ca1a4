"""``align-clip COMMAND ...``, or ``python -m prompting COMMAND ...``: use a trained run."""

import argparse
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from prompting import commands

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)  # their messages are written for users
LONGEST = 1000  # characters of a message; a longer one is shortened in its middle


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    The code is 0, 2 after an error (one line on stderr), 130 after Ctrl-C, 141 without a message if the reader of the
    output has gone (``| head``), or one that the command's ``--help`` describes.
    """
    parser = argparse.ArgumentParser(prog="align-clip", description="Use a trained run.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for info in pkgutil.iter_modules(commands.__path__):
        module = import_module(f"{commands.__name__}.{info.name}")
        about = (module.__doc__ or "").strip()
        command = subparsers.add_parser(
            info.name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--traceback", action="store_true", help="show where an error was raised")
        command.set_defaults(run=module.run)
    words = list(sys.argv[1:] if words is None else words)
    shown = "--traceback" in words or bool(os.environ.get("ALIGN_TRACEBACK"))  # anywhere, as in ``train.py``
    args = parser.parse_args([word for word in words if word != "--traceback"])
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # at exit, Python would report a broken pipe
        return 141
    except Exception as error:
        if shown:
            raise
        print(f"align-clip {args.command}: error: {one_line(error)} (--traceback shows where)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"align-clip {args.command}: interrupted", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
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

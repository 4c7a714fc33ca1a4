"""``align-clip COMMAND ...``, or ``python -m prompting COMMAND ...``: use a trained run."""

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

from prompting import commands

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 after an error, which is one line; ``--help`` lists others."""
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
    shown = "--traceback" in words or bool(os.environ.get("ALIGN_TRACEBACK"))  # at any place, as in ``train.py``
    args = parser.parse_args([word for word in words if word != "--traceback"])
    try:
        return args.run(args)
    except USER_ERRORS as error:
        if shown:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"align-clip {args.command}: error: {message} (--traceback shows where)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"align-clip {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

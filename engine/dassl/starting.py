"""Ctrl-C while a command imports its packages, which takes seconds."""

import os
import signal
import sys

name = ""


def end(number: int, frame: object) -> None:
    """End the process at once, with one line: nothing has been written yet."""
    os.write(2, f"{name}: interrupted\n".encode())
    os._exit(128 + number)


def end_on_ctrl_c(command: str = "") -> None:
    """End this process on Ctrl-C without a traceback, until ``dassl.utils.command`` handles signals.

    The first statement of a program, before its imports; a SIGINT that is ignored stays ignored.

    Args:
        command: its name in the line; the default is the module of ``python -m MODULE``.
    """
    global name
    name = command or f"python -m {sys.orig_argv[sys.orig_argv.index('-m') + 1]}"
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)

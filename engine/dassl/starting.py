"""Ctrl-C while a command imports its packages, which takes seconds."""

import multiprocessing
import os
import signal
import sys

name = ""


def end(number: int, frame: object) -> None:
    """End the process at once, with one line: only imports have run so far, so nothing has been written."""
    if multiprocessing.parent_process() is None:
        os.write(2, f"{name}: interrupted\n".encode())
    os._exit(128 + number)


def end_on_ctrl_c(command: str = "", package: str = "") -> None:
    """End this process on Ctrl-C without a traceback, until ``dassl.utils.command`` handles signals.

    The first statement of a program, before its imports; a SIGINT that is ignored stays ignored.

    Args:
        command: its name in the line; the default is the module in ``package`` that ``python -m`` runs.
        package: its name.
    """
    global name
    name = command or f"python -m {next((word for word in sys.orig_argv if word.startswith(package)), package)}"
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)

"""Ending a run by a signal: as an exception in the main process, with its worker processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..starting import end
from .distributed import is_main

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal that ends the program.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise :class:`Stopped` on Ctrl-C, SIGTERM and SIGHUP in the block; a signal that is ignored stays ignored.

    While one is handled (a ``finally``, an ``except``), further ones do nothing. Of several processes, only the main
    one raises: the others end at once.
    """
    process = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked worker
            os._exit(128 + number)
        if interruption(sys.exc_info()[1]) is None:
            raise Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        if is_main():
            before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        elif signal.getsignal(signal.SIGINT) is end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
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


def ignore_signals() -> None:
    """Ignore Ctrl-C, SIGTERM and SIGHUP from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """End the worker processes of this one at once; further signals are ignored."""
    main, before = threading.current_thread() is threading.main_thread(), None
    if main:
        ignore_signals()
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report workers that were killed
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    if main:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

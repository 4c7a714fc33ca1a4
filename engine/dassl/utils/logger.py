"""Console and ``log.txt``: the logger ``dassl``, a copy of printed text, and progress bars that overlap neither."""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterable
from typing import IO, Any

from tqdm import tqdm

from .command import drop_output
from .distributed import is_main
from .tools import mkdir_if_missing

LOGGER = logging.getLogger("dassl")

# A data worker flushes stdout at its end, which acquires tqdm's lock. The lock of the parent may never be released: a
# thread of the parent held it at the fork, or the parent was killed while it held it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))


class _Tee:
    """A replacement of stdout that writes to the console and to the run's log file; if ``quiet``, to the file only."""

    def __init__(self, console: Any, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.file: Any = io.StringIO()
        self._pending = ""

    def write(self, text: str) -> int:
        # letters that the console's encoding lacks, as in a file name that is not UTF-8, are shown as escapes
        encoding = getattr(self.console, "encoding", None) or "utf-8"
        # print() writes the line end separately; no bar may be drawn in between
        self._pending += text.encode(encoding, "backslashreplace").decode(encoding)
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._pending = self._pending, ""
        # after the run, the console (of a notebook or test) or the log may be closed
        if not self.quiet and not getattr(self.console, "closed", False):
            # tqdm clears bars on stderr only if it is told the current stdout, which may be the tee
            try:
                with tqdm.external_write_mode(file=sys.stdout):
                    self.console.write(text)
                self.console.flush()
            except BrokenPipeError:  # of "| head": a run goes on and writes its log file
                drop_output()
        if text and not self.file.closed:
            try:
                self.file.write(text)
                self.file.flush()
            except OSError as error:  # a full disk: the run goes on without the file
                _close(self.file)
                print(f"{self.file.name}: the log ends here ({error.strerror})", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)


class _PrintHandler(logging.Handler):
    """Prints log lines on the current stdout, which may be the tee; warnings also while the tee is quiet."""

    def emit(self, record: logging.LogRecord) -> None:
        tee = sys.stdout
        unmute = isinstance(tee, _Tee) and tee.quiet and record.levelno >= logging.WARNING
        try:
            if unmute:
                tee.flush()
                tee.quiet = False
            tqdm.write(self.format(record))
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)
        finally:
            if unmute:
                tee.quiet = True


class RunLog(contextlib.AbstractContextManager):
    """Log file of one run, to which text is appended; active until ``close()`` or the end of a ``with`` block.

    ``wait`` keeps the text in memory, and makes neither file nor folder, until ``open()``. Until then only warnings are
    printed.
    """

    def __init__(self, path: str, wait: bool = False) -> None:
        self.path = path
        self._handler = _PrintHandler()
        # "dassl" has its own handler, which also works without a log file
        self._handler.addFilter(lambda record: record.name.split(".")[0] != LOGGER.name)
        logging.getLogger().addHandler(self._handler)
        self._tee = sys.stdout = _Tee(sys.stdout, quiet=wait)
        if not wait:
            self.open()

    def open(self) -> None:
        """Make the file and its folder, and write to it from now on; print again."""
        self._tee.flush()
        mkdir_if_missing(os.path.dirname(self.path))
        text = self._tee.file.getvalue()
        self._tee.file = open(self.path, "a", encoding="utf-8")
        self._tee.quiet = True  # the console does not get what only the file lacks
        self._tee.write(text)
        self._tee.flush()
        self._tee.quiet = False

    def close(self) -> None:
        """Restore stdout and the handlers, and close the file."""
        logging.getLogger().removeHandler(self._handler)
        self._tee.flush()
        if sys.stdout is self._tee:
            sys.stdout = self._tee.console
        _close(self._tee.file)

    def __exit__(self, *exc: object) -> None:
        self.close()


def _close(file: IO[str]) -> None:
    with contextlib.suppress(OSError):
        file.close()


_current: RunLog | None = None


def setup_logger(output: str | None = None, wait: bool = False) -> RunLog | None:
    """Copy everything that is logged or printed from now on to a file, to which it is appended.

    A second call closes the first one's file. ``output`` is the folder of ``log.txt``, or the file itself (``.txt``,
    ``.log``); None changes nothing. ``wait`` is as for ``RunLog``.

    Returns:
        The open log; None if ``output`` is None, and in processes other than the main one, which from now on log errors
        only.
    """
    global _current
    if not is_main():
        logging.disable(logging.WARNING)
        sys.stdout = open(os.devnull, "w")
        return None
    if output is None:
        return None
    if _current is not None:
        _current.close()
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    _current = RunLog(path, wait)
    return _current


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar on stderr, visible on a terminal; ``DASSL_PROGRESS=1`` or ``0`` shows or hides it."""
    wish = os.environ.get("DASSL_PROGRESS", "")
    shown = {"0": False, "1": True}.get(wish, sys.stderr is not None and sys.stderr.isatty())
    return tqdm(iterable, disable=not (shown and is_main()), file=sys.stderr, dynamic_ncols=True, **options)


if not LOGGER.handlers:
    LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(_PrintHandler())

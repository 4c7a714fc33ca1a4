"""The trainers' logger. Its lines show on every Dassl: on this project's engine, and on one that only prints."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("dassl.trainers")


class _PrintHandler(logging.Handler):
    """Writes to the current ``sys.stdout``, which Dassl replaces by one that also writes ``log.txt``.

    Silent where the engine's handlers, or a user's, take the record.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if logger.parent is None or logger.parent.hasHandlers():
            return
        try:
            sys.stdout.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _ForwardHandler(logging.Handler):
    """Hands the records of the library ``prompting`` to the trainers' logger, so that they reach ``log.txt``."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.handle(record)


if not logging.getLogger("dassl").handlers:
    logger.setLevel(logging.INFO)
    logger.addHandler(_PrintHandler())
library = logging.getLogger("prompting")
library.addHandler(_ForwardHandler())
library.propagate = False

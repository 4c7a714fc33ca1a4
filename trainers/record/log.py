"""The trainers' logger. It writes on every Dassl: on this project's engine, and on versions that only print."""

import logging
import sys

logger = logging.getLogger("dassl.trainers")
library = logging.getLogger("prompting")


class _PrintHandler(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, which Dassl replaces by one that also writes ``log.txt``.

    Silent where a handler above ``logger``, such as the engine's or a user's, takes the record.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(sys.stdout)
        self.logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        if self.logger.parent is not None and not self.logger.parent.hasHandlers():
            self.stream = sys.stdout
            super().emit(record)


if not logging.getLogger("dassl").handlers:
    logger.setLevel(logging.INFO)
    for _logger in (logger, library):
        _logger.addHandler(_PrintHandler(_logger))

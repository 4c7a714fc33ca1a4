"""The trainers' lines on this project's engine, on a Dassl that logs by printing, and next to a user's logging."""

import importlib
import io
import logging
import sys

import dassl.utils
import pytest

from trainers.record import log

LINES = ["Loading CLIP", "printed by Dassl", "be careful"]
LOGGERS = [logging.getLogger(name) for name in (None, "dassl", "dassl.trainers", "prompting")]


@pytest.fixture(autouse=True)
def restored_loggers():
    before = [(logger, list(logger.handlers), logger.level) for logger in LOGGERS]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def write_lines():
    log.logger.info(LINES[0])
    print(LINES[1])
    log.logger.warning(LINES[2])


def test_lines_on_this_engine(tmp_path, capsys):
    with dassl.utils.setup_logger(str(tmp_path / "log.txt")):
        write_lines()
    assert capsys.readouterr().out.splitlines() == (tmp_path / "log.txt").read_text().splitlines() == LINES


@pytest.mark.parametrize("logging_of_user", [None, "before", "after"])
def test_lines_on_a_dassl_that_prints(logging_of_user, monkeypatch, capsys):
    """Dassl 0.6.3 uses no logger and exchanges ``sys.stdout``; a user's logging gets the lines alone."""
    for logger in LOGGERS:
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
    stdout = io.StringIO()
    for step in ("before", "start", "after"):
        if step == logging_of_user:
            logging.basicConfig(level=logging.INFO, format="mine: %(message)s")
        if step == "start":
            importlib.reload(log)
            monkeypatch.setattr(sys, "stdout", stdout)
    write_lines()
    printed, mine = (LINES[1:2], ["mine: Loading CLIP", "mine: be careful"]) if logging_of_user else (LINES, [])
    assert (stdout.getvalue().splitlines(), capsys.readouterr().err.splitlines()) == (printed, mine)

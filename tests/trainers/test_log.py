"""The trainers' lines on this project's engine, on a Dassl that logs by printing, and next to a user's logging."""

import importlib
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
    sys.stdout.flush()


class Tee:
    """Dassl's stdout, which also writes to the run's file."""

    def __init__(self, console, path):
        self.console, self.file = console, path.open("w")

    def write(self, text):
        self.console.write(text)
        self.file.write(text)

    def flush(self):
        self.file.flush()


@pytest.fixture
def printing_dassl(tmp_path, monkeypatch, capsys):
    """Return a function that writes the lines on Dassl 0.6.3, which uses no logger: (stdout, stderr, log.txt)."""

    def run(logging_of_user=""):
        for logger in LOGGERS:
            logger.handlers[:] = []
            logger.setLevel(logging.NOTSET)
        for step in ("before", "start", "after"):
            if step == logging_of_user:
                logging.basicConfig(level=logging.INFO, format="mine: %(message)s")
            if step == "start":
                importlib.reload(log)
                monkeypatch.setattr(sys, "stdout", Tee(sys.stdout, tmp_path / "log.txt"))
        write_lines()
        written = capsys.readouterr()
        return [text.splitlines() for text in (*written, (tmp_path / "log.txt").read_text())]

    return run


def test_lines_reach_console_and_file_once_and_in_order(printing_dassl):
    assert printing_dassl() == [LINES, [], LINES]


def test_lines_on_this_engine(tmp_path, capsys):
    with dassl.utils.setup_logger(str(tmp_path / "log.txt")):
        write_lines()
    assert capsys.readouterr().out.splitlines() == (tmp_path / "log.txt").read_text().splitlines() == LINES


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_users_logging_gets_them_alone(printing_dassl, when):
    assert printing_dassl(when) == [LINES[1:2], ["mine: Loading CLIP", "mine: be careful"], LINES[1:2]]

"""The trainers' lines on a Dassl that logs by printing, as the published one does, and beside other logging."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent

# What Dassl 0.6.3 does: no logging anywhere; a stdout that also writes to the run's file, from setup_logger on.
PRINTING = """
import logging, sys
import dassl.utils
logging.getLogger("dassl").handlers.clear()
logging.getLogger("dassl").setLevel(logging.NOTSET)
{before}
from trainers.record.log import logger

class Tee:
    def __init__(self, console, path):
        self.console, self.file = console, open(path, "w")
    def write(self, text):
        self.console.write(text)
        self.file.write(text)
    def flush(self):
        self.console.flush()
        self.file.flush()

sys.stdout = Tee(sys.stdout, sys.argv[1])
{after}
logger.info("Loading CLIP")
print("printed by Dassl")
logger.warning("be careful")
sys.stdout.flush()
"""
ENGINE = """
import logging, sys
import dassl.utils
from trainers.record.log import logger
with dassl.utils.setup_logger(sys.argv[1]):
    logger.info("Loading CLIP")
    print("printed by Dassl")
    logger.warning("be careful")
"""
LINES = ["Loading CLIP", "printed by Dassl", "be careful"]


def run(program, log):
    command = [sys.executable, "-c", program, str(log)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("program", [PRINTING.format(before="", after=""), ENGINE], ids=["printing", "engine"])
def test_lines_reach_console_and_file_once_and_in_order(program, tmp_path):
    done = run(program, tmp_path / "log.txt")
    assert done.stdout.splitlines() == (tmp_path / "log.txt").read_text().splitlines() == LINES
    assert done.stderr == ""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_users_own_logging_gets_them_alone(when, tmp_path):
    words = {"before": "", "after": "", when: "logging.basicConfig(level=logging.INFO, format='mine: %(message)s')"}
    done = run(PRINTING.format(**words), tmp_path / "log.txt")
    assert done.stdout.splitlines() == ["printed by Dassl"]
    assert done.stderr.splitlines() == ["mine: Loading CLIP", "mine: be careful"]

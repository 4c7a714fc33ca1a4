"""For all tests: no log of a run outlives its test, and processes have Python's defaults."""

import importlib
import os
import sys

import pytest

for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):  # most users have neither
    os.environ.pop(name, None)

run_log = importlib.import_module("dassl.utils.logger")


@pytest.fixture(autouse=True)
def console_as_before():
    """Close the log that a test, or a command that it runs, has left open, and give the console back."""
    stdout = sys.stdout
    yield
    if run_log._current is not None:
        run_log._current.close()
        run_log._current = None
    sys.stdout = stdout

"""Fixtures of the experiments' tests."""

import sys

import pytest


@pytest.fixture
def call_main(monkeypatch, capfd):
    """Return a function that calls a module's main with words: (exit code, stdout, stderr)."""

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
        code = module.main()
        return code, *capfd.readouterr()

    return call

"""Puts the mini sets into the registry."""

from __future__ import annotations

from functools import partial

from ..registry import Description, register
from .suite import SUITE, ensure

MINI_DATASETS = {
    mini.name: register(
        Description(
            name=mini.name,
            folder=mini.folder,
            split=mini.split_file,
            test_only=mini.test_only,
            # our own set, and always the same: a root that lacks it gets it
            prepare=partial(ensure, mini),
        )
    )
    for mini in SUITE.values()
}

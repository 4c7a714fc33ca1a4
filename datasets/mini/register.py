"""Puts the mini sets into the registry."""

from functools import partial

from ..registry import Description, register
from .files import ensure
from .suite import read_suite

MINI_DATASETS = {
    # a root that lacks a set gets it: it is the same whoever writes it
    one.name: register(
        Description(one.name, one.folder, one.split_file, test_only=one.test_only, prepare=partial(ensure, one))
    )
    for one in read_suite().values()
}

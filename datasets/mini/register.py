"""Puts the mini sets into the registry: the drawn ones, and those of the picture suite under names that are free."""

from functools import partial

from ..registry import Description, register
from . import picture_files, suite
from .picture_sets import read_suite

# Description of each set by its registry name; a root that lacks it gets it, the same whoever writes it.
_ABOUT = {
    one.name: Description(
        one.name, one.folder, one.split_file, test_only=one.test_only, prepare=partial(write.ensure, one)
    )
    for write, sets in ((picture_files, read_suite()), (suite, suite.SUITE))
    for one in sets.values()
}
MINI_DATASETS = {name: register(about) for name, about in _ABOUT.items()}

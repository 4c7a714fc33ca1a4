"""Parameters of tests that take long for each of many values."""

from collections.abc import Iterable
from typing import Any

import pytest


def long_but(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Mark all values but the kept ones ``long``: those run in ``make test-long`` only.

    Raises:
        ValueError: a kept value is not among the values.
    """
    values = list(values)
    if missing := [value for value in kept if value not in values]:
        raise ValueError(f"not among the parameters: {missing}")
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]

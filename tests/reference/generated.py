"""Tests on values that hypothesis generates: some in ``make test``, many in ``make test-long``."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

REFUSALS = (ValueError, KeyError, AssertionError, OSError, TypeError)  # of which users see one line


def generated(short: int, long: int, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Make ``check(folder, **values)`` a test that calls it with generated values.

    Args:
        short: examples in ``make test``, the same each time.
        long: examples in ``make test-long``, others each time.
        strategies: name of an argument -> hypothesis strategy.
    """

    def decorate(check: Callable[..., None]) -> Any:
        sizes = [pytest.param(short, marks=pytest.mark.slow), pytest.param(long, marks=pytest.mark.long)]

        @pytest.mark.parametrize("examples", sizes)
        def test(examples: int, tmp_path: Any) -> None:
            def case(**values: Any) -> None:
                check(tmp_path, **values)

            options: Any = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
            settings(max_examples=examples, derandomize=examples == short, **options)(given(**strategies)(case))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def is_one_line(error: BaseException) -> bool:
    """Return whether an error is a refusal that fits in one line."""
    return isinstance(error, REFUSALS) and 0 < len(str(error)) < 1500 and "\n" not in str(error)

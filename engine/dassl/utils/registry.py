"""Names for things: registries, and errors that suggest the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Callable

__all__ = ["NamedKeyError", "Registry", "check_availability", "get_most_similar_str_to_a_from_b"]


class NamedKeyError(KeyError):
    """A KeyError that prints as its plain message (Python's own adds quotes)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the entry of ``names`` most like ``name`` (the last one among equals), or None if there is none."""
    best, best_ratio = None, 0.0
    for candidate in names:
        ratio = difflib.SequenceMatcher(None, str(name), candidate).ratio()
        if ratio >= best_ratio:
            best, best_ratio = candidate, ratio
    return best


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str | None:
    """Return the string in ``b`` most like ``a`` (Dassl's name for :func:`nearest`)."""
    return nearest(a, b)


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Raise ValueError, naming the nearest entry, unless ``requested`` is in ``available``."""
    if requested not in available:
        raise ValueError(
            f"The requested one is expected to belong to {available}, "
            f"but got [{requested}] (do you mean [{nearest(requested, available)}]?)"
        )


class Registry:
    """A mapping from names to classes or functions, filled by decorators.

    Args:
        name: what is registered here, for error messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Callable[[Any], Any] | None:
        """Register ``obj`` under its ``__name__``; without ``obj``, return a decorator that does.

        Args:
            obj: class or function, or None for use as ``@REGISTRY.register()``.
            force: replace an entry of the same name.

        Raises:
            KeyError: the name is taken and ``force`` is False.
        """
        if obj is not None:
            self._put(obj, force)
            return None

        def decorate(target: Any) -> Any:
            self._put(target, force)
            return target

        return decorate

    def _put(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        if name in self._obj_map and not force:
            raise NamedKeyError(f'An object named "{name}" was already registered in "{self._name}" registry')
        self._obj_map[name] = obj

    def get(self, name: str) -> Any:
        """Return what is registered as ``name``; raise KeyError, naming the nearest entry, if nothing is."""
        if name not in self._obj_map:
            hint = f" (do you mean [{nearest(name, self._obj_map)}]?)" if self._obj_map else ""
            raise NamedKeyError(f'Object name "{name}" does not exist in "{self._name}" registry{hint}')
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """Return all names, in the order of registration."""
        return list(self._obj_map)

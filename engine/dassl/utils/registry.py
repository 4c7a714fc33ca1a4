"""Registries, and errors that suggest the nearest name."""

import difflib
import logging
from collections.abc import Iterable, Sequence
from typing import Any


class NamedKeyError(KeyError):
    """A KeyError whose text is its message (that of KeyError itself has quotes around it)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str | None:
    """Return the string in ``b`` most similar to ``a`` (the last one of several), or None if ``b`` is empty."""
    return max(reversed(list(b)), key=lambda name: difflib.SequenceMatcher(None, str(a), name).ratio(), default=None)


nearest = get_most_similar_str_to_a_from_b


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'X'?" for the similar entry of ``known``, or "" if none is similar."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), words, n=1)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError, naming a similar allowed word, unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}{did_you_mean(value, allowed)}")


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Raise ValueError, with the nearest entry, unless ``requested`` is in ``available``."""
    if requested not in available:
        hint = f" (do you mean [{nearest(requested, available)}]?)" if available else ", and nothing is registered"
        raise ValueError(f"The requested one is expected to belong to {available}, but got [{requested}]{hint}")


class Registry:
    """Classes or functions by name, registered by a decorator; ``name`` is their kind in capitals, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Register ``obj`` under its ``__name__`` and return it; without ``obj``, return a decorator that registers.

        Raises:
            KeyError: the name exists and ``force``, which replaces it, is False.
        """

        def put(target: Any) -> Any:
            name = target.__name__
            if name in self._obj_map and not force:
                raise NamedKeyError(f'An object named "{name}" was already registered in "{self._name}" registry')
            self._obj_map[name] = target
            return target

        return put if obj is None else put(obj)

    def get(self, name: str) -> Any:
        """Return the entry ``name``; raise KeyError, with the nearest name, if it does not exist."""
        if name not in self._obj_map:
            hint = f" (do you mean [{nearest(name, self._obj_map)}]?)" if self._obj_map else ""
            raise NamedKeyError(f'Object name "{name}" does not exist in "{self._name}" registry{hint}')
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._obj_map)

    def build(self, name: str, *args: Any, verbose: bool = True, **options: Any) -> Any:
        """Return the entry ``name`` called with the other arguments; raise ValueError if it does not exist."""
        check_availability(name, self.registered_names())
        if verbose:
            logging.getLogger(__name__).info("Loading %s: %s", self._name.lower(), name)
        return self.get(name)(*args, **options)

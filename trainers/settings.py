"""A method's config keys, their names and defaults; several methods may share a node."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, ClassVar

from yacs.config import CfgNode

from prompting.methods.base import Options, PromptedCLIP


def key_of(option: str) -> str:
    """Return the config key of an option: N_CTX for ``n_ctx``, LAMBDA for ``lambda_``."""
    return option.upper().rstrip("_")


class MethodSettings:
    """The part of a trainer that reads its config keys; for the class attributes see ``PromptTrainer``."""

    model_class: ClassVar[type[PromptedCLIP[Any]]]
    node: ClassVar[str]
    other_keys: ClassVar[dict[str, str]] = {}
    default_precision: ClassVar[str] = "fp16"

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the keys of the method, without their nodes, with their defaults."""
        options = cls.model_class.options_class.defaults()
        return {**{key_of(name): value for name, value in options.items()}, "PREC": cls.default_precision}

    @classmethod
    def full_key(cls, key: str) -> str:
        """Return a key of ``defaults`` with its nodes, such as TRAINER.COOP.N_CTX."""
        return cls.other_keys.get(key, f"TRAINER.{cls.node}.{key}")

    @classmethod
    def settings(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the keys of ``defaults`` with their values in ``cfg``, or the default where a shared key is None.

        Raises:
            ValueError: a value of another type than the default, for a key that several methods share.
        """
        values = {}
        for key, default in cls.defaults().items():
            *nodes, leaf = cls.full_key(key).split(".")
            value = reduce(CfgNode.__getitem__, nodes, cfg)[leaf]
            values[key] = default if value is None else value
            if any(isinstance(values[key], kind) != isinstance(default, kind) for kind in (bool, str)):
                raise ValueError(
                    f"{cls.full_key(key)} is {value!r}; allowed for {cls.__name__}: a {type(default).__name__}, "
                    f"by default {default!r}"
                )
        return values

    @classmethod
    def options(cls, cfg: CfgNode) -> Options:
        """Return the model's options from the method's config keys.

        Raises:
            ValueError: a value that is not allowed; the message names its key.
        """
        values, options_class = cls.settings(cfg), cls.model_class.options_class
        with cls.keys_in_errors():
            options = options_class(**{name: values[key_of(name)] for name in options_class.defaults()})
            options.check_numbers()
            return options

    @classmethod
    @contextmanager
    def keys_in_errors(cls) -> Iterator[None]:
        """Replace option names by config keys in the model's errors: ``n_ctx`` becomes TRAINER.<NODE>.N_CTX."""
        names = list(cls.model_class.options_class.defaults())
        try:
            yield
        except ValueError as error:
            unmistakable = "|".join(name for name in names if "_" in name) or names[0]
            pattern = rf"\b({unmistakable})\b|\b({'|'.join(names)})\b(?= is | to )"
            message = re.sub(pattern, lambda match: key_of(match[0]), str(error))
            first = str(error).split(" ", 1)[0]
            if first in names:
                message = cls.full_key(key_of(first)) + message[len(key_of(first)) :]
            raise ValueError(message) from error


def add_nodes(cfg: CfgNode, *methods: type[MethodSettings]) -> None:
    """Add the config keys of ``methods``, with their defaults, to ``cfg``.

    Methods may share a key. Where their defaults differ, the key holds None, which takes a value of any type and stands
    for the default of the method that reads it (``MethodSettings.settings``).
    """
    for method in methods:
        for key, default in method.defaults().items():
            *nodes, leaf = method.full_key(key).split(".")
            node = cfg
            for name in nodes:
                node = node.setdefault(name, CfgNode())
            other = node.get(leaf, default)
            node[leaf] = default if (type(other), other) == (type(default), default) else None


def fill_defaults(cfg: CfgNode, method: type[MethodSettings]) -> None:
    """Replace None in the shared keys of ``method`` by its defaults."""
    for key, value in method.settings(cfg).items():
        *nodes, leaf = method.full_key(key).split(".")
        reduce(CfgNode.__getitem__, nodes, cfg)[leaf] = value

"""A yacs config whose errors suggest the nearest key."""

from collections.abc import Callable, Iterator
from typing import Any

from dassl.utils.registry import NamedKeyError, nearest
from yacs.config import CfgNode as YacsNode

from .files import read_yaml


class ConfigKeyError(NamedKeyError, AssertionError):
    """An unknown config key: a KeyError and an AssertionError, as yacs raises for files and for lists."""


class RootConfig(YacsNode):
    """yacs' ``CfgNode``; the error for an unknown key suggests the nearest known one.

    Only the root of a config has this class: yacs merges nodes of equal type, and plugins add plain nodes.
    """

    @classmethod
    def _create_config_tree_from_dict(cls, dic: dict[str, Any], key_list: list[str]) -> dict[str, Any]:
        return YacsNode._create_config_tree_from_dict(dic, key_list)

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        return YacsNode._decode_cfg_value(value)

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge a YAML file into this tree; its suffix does not matter, and no code in it runs.

        Raises:
            ConfigKeyError: a key does not exist in this tree.
            ValueError: the file is not YAML, has a key twice, or a value of another type.
        """
        content = read_yaml(cfg_filename)
        try:
            self.merge_from_other_cfg(YacsNode(content))
        except ConfigKeyError:
            raise
        except (ValueError, AssertionError) as error:
            raise ValueError(f"{cfg_filename}: {' '.join(str(error).split())}") from None

    def merge_from_other_cfg(self, cfg_other: YacsNode) -> None:
        """Merge another tree into this one; for errors see :meth:`merge_from_list`."""
        self._merge([key for key, _ in leaves(cfg_other)], super().merge_from_other_cfg, cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        """Merge ``[KEY, value, KEY, value, ...]``; text is read as a Python literal if it can be.

        Raises:
            ConfigKeyError: a key does not exist in this tree.
            ValueError: a key has no value, or a value of another type.
        """
        if len(cfg_list) % 2:
            raise ValueError(f"Config keys and values come in pairs, but got {len(cfg_list)} words: {list(cfg_list)}")
        self._merge(list(map(str, cfg_list[0::2])), super().merge_from_list, cfg_list)

    def _merge(self, keys: list[str], merge: Callable[[Any], None], values: Any) -> None:
        before = {key: self._value(key) for key in keys}
        try:
            merge(values)
        except (RecursionError, MemoryError, TypeError) as error:  # of Python's parser of literals
            found = f"{type(error).__name__}: {error}"
            raise ValueError(f"a value of {', '.join(keys):.200} cannot be read ({found:.200})") from None
        except (ValueError, AssertionError) as error:  # of another type: yacs shows both values, whole groups too
            words = " ".join(str(error).split())
            short = words if len(words) < 300 else f"{words[:150]} ... {words[-100:]}"
            raise type(error)(short) from None
        for key, value in before.items():  # yacs takes None for any value
            if self._value(key) is None and value not in (None, ""):
                raise ValueError(f"{key} is None; it should be a {type(value).__name__}, such as {value!r}")

    def _value(self, full_key: str) -> Any:
        """Return the value of a key (with dots); None for a new key of a node that allows new ones."""
        node: Any = self
        for part in full_key.split("."):
            if isinstance(node, YacsNode) and part in node:
                node = node[part]
            elif isinstance(node, YacsNode) and node.is_new_allowed():
                return None
            else:
                guess = nearest(full_key[:100].upper(), [key for key, _ in leaves(self)])
                shown = full_key if full_key.isprintable() else ascii(full_key)
                raise ConfigKeyError(f"Non-existent config key: {shown:.200} (do you mean {guess}?)")
        return node


def leaves(node: YacsNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key (with dots) and the value of each leaf under ``node``; an empty node is a leaf."""
    for key, value in node.items():
        if isinstance(value, YacsNode) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

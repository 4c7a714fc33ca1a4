"""A yacs config whose errors suggest the nearest key."""

from typing import Any

from dassl.utils.registry import NamedKeyError, nearest
from yacs.config import CfgNode as YacsNode


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

    def merge_from_other_cfg(self, cfg_other: YacsNode) -> None:
        """Merge another tree into this one.

        Raises:
            ConfigKeyError: a key does not exist in this tree.
            ValueError: a value's type is not that of the value it replaces.
        """
        for key in leaf_keys(cfg_other):
            self._check_key(key)
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        """Merge ``[KEY, value, KEY, value, ...]``, as given on a command line.

        Args:
            cfg_list: dotted keys, each followed by its value (text is parsed as a Python literal if it is one).

        Raises:
            ConfigKeyError: a key does not exist in this tree.
            ValueError: a key has no value, or a value of another type.
        """
        if len(cfg_list) % 2:
            raise ValueError(f"Config keys and values come in pairs, but got {len(cfg_list)} words: {list(cfg_list)}")
        for key in cfg_list[0::2]:
            self._check_key(str(key))
        super().merge_from_list(cfg_list)

    def _check_key(self, full_key: str) -> None:
        node: Any = self
        for part in full_key.split("."):
            if isinstance(node, YacsNode) and part in node:
                node = node[part]
            elif isinstance(node, YacsNode) and node.is_new_allowed():
                return
            else:
                guess = nearest(full_key.upper(), leaf_keys(self))
                raise ConfigKeyError(f"Non-existent config key: {full_key} (do you mean {guess}?)")


def leaf_keys(node: YacsNode, prefix: str = "") -> list[str]:
    """Return the full keys (with dots) of all values under ``node``."""
    keys: list[str] = []
    for key, value in node.items():
        has_keys = isinstance(value, YacsNode) and value
        keys += leaf_keys(value, f"{prefix}{key}.") if has_keys else [f"{prefix}{key}"]
    return keys

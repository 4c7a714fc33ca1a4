"""Config files: YAML whatever the suffix, each key once."""

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

MAX_VALUES = 100_000  # aliases can make a small file a huge tree


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, keys that are no text, and trees of more than ``MAX_VALUES`` nodes."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.YAMLError(f"line {line}: the key {getattr(key, 'value', key)!r:.80} is no text; quote it")
            if key.value in lines:
                raise yaml.YAMLError(f"the key {key.value!r:.80} is in line {lines[key.value]} and in line {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: ScalarNode) -> Any:
        value, kinds = node.value, ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if node.tag in kinds and (":" in value or (value.lstrip("+-")[:1] == "0" and value.lstrip("+-0").isdigit())):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(
                f"line {line}: {value!r:.80} is octal or in minutes to YAML; write a decimal number, or quote a text"
            )
        return super().construct_scalar(node)


def _size(node: Node, known: dict[int, float]) -> float:
    """Return the number of nodes of the tree with all aliases written out; infinite if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = node.value if not isinstance(node, ScalarNode) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def read_yaml(path: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file; no code in it runs.

    Raises:
        ValueError: the file is not YAML, holds no keys and values, or has a key twice.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = yaml.load(file, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"the config file {path} is not YAML of keys and values: {words}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the config file {path} holds a {type(content).__name__}; it should hold KEY: VALUE lines")
    return content

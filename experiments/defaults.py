"""Settings that all runs of a command share, and the flags that set them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDefaults:
    """Settings of all runs of a command."""

    root: str = "data"  # folder of the data sets
    output: Path = Path("output")  # folder of the results
    config: str = ""  # the method's YAML file (a path, or a stem in its folder) in place of the protocol's
    options: tuple[str, ...] = ()  # KEY VALUE words over the YAML files
    plugins: tuple[str, ...] = ()  # Python files that register methods or data sets

    @classmethod
    def of(cls, args: argparse.Namespace) -> RunDefaults:
        """Return the defaults that the flags of ``add_defaults`` give, and import the plugins."""
        import train

        for file in args.plugin:
            train.load_plugin(file)
        return cls(args.root, args.output, args.config, tuple(args.set), tuple(args.plugin))


def add_defaults(parser: argparse.ArgumentParser, shots: Sequence[int]) -> None:
    """Add the flags of ``RunDefaults``, and ``--shots``."""
    add = parser.add_argument
    add("--root", default=os.environ.get("DATA", "data"), help="folder of the data sets (default: $DATA, or data)")
    add("--output", type=Path, default=Path(os.environ.get("OUTPUT", "output")), help="folder of the results")
    add("--config", default="", help="the method's YAML file, or its stem, in place of the protocol's")
    add("--shots", type=int, nargs="+", default=shots, help="of fewshot (default: 1 2 4 8 16)")
    add("--plugin", action="append", default=[], metavar="FILE", help="Python file that registers a method or data set")
    add("--set", nargs="+", default=[], metavar="KEY VALUE", help="config words over the YAML files")

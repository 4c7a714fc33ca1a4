"""Fills the templates of the report."""

import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import prompting
from prompting.files import write_file

ENVIRONMENT = Environment(
    loader=PackageLoader("experiments.report"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **content: Any) -> str:
    """Return a page: ``content`` in a template, with the program's version and the time."""
    written = time.strftime("%Y-%m-%d %H:%M")
    return ENVIRONMENT.get_template(template).render(**content, version=prompting.__version__, written=written)


def write(page: str, path: Path) -> Path:
    """Write a page, whole or not at all, and return its path."""
    write_file(path, page.encode("utf-8", "backslashreplace"))
    return path

"""The commands that the pages of the documentation show, and the modules that take them."""

import re
import shlex
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), PROJECT / "prompting/ot/README.md"]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.S | re.M)
OURS = re.compile(r"(\w+=\S+ )*(\.venv/bin/)?(python|align-clip|torchrun|make|scripts/)")


def lines(page: Path) -> list[str]:
    """Return the commands of a page, one a line: its ```bash blocks, and blocks of no language that start with one."""
    blocks = [(language, block) for _, language, block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    shown = "".join(block for language, block in blocks if language == "bash" or not language and OURS.match(block))
    return [line.strip() for line in shown.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command."""
    return [shlex.split(line, comments=True) for line in lines(page)]


def module_call(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module that a command runs, and the words that it gets; None for a program of others."""
    while re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    program, *words = words[0].removeprefix(".venv/bin/"), *words[1:]
    if program == "align-clip":
        return "prompting", words
    if program in ("python", "torchrun"):
        words = words[[word.startswith("--") for word in words].index(False) :] if program == "torchrun" else words
        module, *words = words[1:] if words[0] == "-m" else [words[0].removesuffix(".py"), *words[1:]]
        return module, words
    if program == "scripts/reproduce.sh":
        return "experiments.sweep", ["--protocol", words[0], "--methods", *words[1:]]
    if program.startswith("scripts/"):
        module, first = re.search(r"-m ([\w.]+)( \w+)? \"\$@\"", (PROJECT / program).read_text()).groups()
        return module, [*(first or "").split(), *words]
    return None

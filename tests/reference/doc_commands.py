"""The commands that the pages of the documentation show: the ```bash blocks, one command a line."""

import re
import shlex
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), PROJECT / "prompting/ot/README.md"]
BLOCK = re.compile(r"^( *)```bash\n(.*?)^\1```", re.S | re.M)


def lines(page: Path) -> list[str]:
    """Return the lines of a page's ```bash blocks, continued lines joined, without comments."""
    text = "\n".join(block for _, block in BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if shlex.split(line, comments=True)]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command."""
    return [shlex.split(line, comments=True) for line in lines(page)]

"""NOTICE.md of the pictures: sets of the benchmark and of pre-training, who drew them, under which licence."""

from collections import Counter
from collections.abc import Iterable

from .iconify import LICENCES, IconSet

HEAD = """# Pictures of the mini world: sets, authors, licences

The sheets in this folder hold pictures of the sets in the first table. The weights of the mini CLIP were trained on the
sets in the second; no picture of theirs is in this folder. All come from the npm package `@iconify/json` {version}
(<https://github.com/iconify/icon-sets>), which names the authors and licences given here.

What was changed: each icon was rendered from SVG at 64 x 64 pixels, centred on a square; icons of one colour are kept
as masks. The data sets recolour, move, turn, size and texture them. `manifest.csv` says which icon each tile is. A set
stays under its own licence. Nobody named here endorses this project. Company marks were left out.

"""


def _table(sets: Iterable[IconSet], counts: Counter) -> list[str]:
    lines = ["| set | title | author | licence | pictures |", "|---|---|---|---|---:|"]
    for icons in sets:
        author = f"[{icons.author}]({icons.url})" if icons.url else icons.author
        licence = f"[{icons.licence}]({LICENCES[icons.licence]})"
        lines.append(f"| `{icons.name}` | {icons.title} | {author} | {licence} | {counts[icons.name]:,} |")
    return lines


def notice(sets: list[IconSet], benchmark: Counter, pretraining: Counter, version: str) -> str:
    """Return the text of the NOTICE of all permitted sets, with their numbers of pictures in either use."""
    shown, known = ([s for s in sets if counts[s.name]] for counts in (benchmark, pretraining))
    lines = ["## In this folder", "", *_table(shown, benchmark), "", "## Seen in pre-training only", ""]
    return HEAD.format(version=version) + "\n".join([*lines, *_table(known, pretraining)]) + "\n"

"""Plain names of icons, without words for styles, and the classes of the suite that ``classes.yaml`` gives them."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import yaml

CLASSES_FILE = Path(__file__).with_name("classes.yaml")
# Last words that name a style, a size or a number of the drawing.
STYLE_WORDS = frozenset(
    "filled fill outline outlined line linear solid bold light thin regular duotone duo twotone rounded round sharp "
    "broken alt icon glyph simple small stroke streamline remix flat".split()
)
EMOJI = frozenset(
    "dinkie-icons emojione emojione-monotone fluent-emoji-flat fluent-emoji-high-contrast fxemoji noto noto-v1 "
    "streamline-emojis twemoji".split()
)
_NUMBER = re.compile(r"\d+(px)?|[a-z]?\d{1,2}|[ivx]{2,}")
# Words that icon-park and others number drawings of one thing with.
_COUNTS = ("one", "two", "three", "four", "variant", "emoji", "symbol", "sign")
# First words that say the theme of a drawing.
THEMES = (
    "animal", "pet animals", "nature", "food", "food drink", "fruit", "sport", "sports", "weather", "vehicle",
    "transport", "transportation", "plant", "ecology", "flower", "building", "device", "tool", "tools", "emoji",
    "entertainment events hobbies", "interface essential", "social rewards", "music", "business product",
)  # fmt: skip

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT = re.compile(
    r"(?:number|numeric|counter|keycap|digit|keycap-digit|looks|number-circle|number-row|number-symbol|number-square)?-?"
    rf"(\d|{'|'.join(_DIGIT_WORDS)})(?:-(?:box|circle|square|box-multiple|multiple))?"
)


def plain_name(icon: str, styles: Iterable[str] = ()) -> str:
    """Return an icon's name in words, without its style: "home-2-bold" becomes "home".

    ``styles`` are the prefixes and suffixes that mean a style in this set, longest first.
    """
    name = icon.lower()
    for style in styles:
        plain = name.removesuffix(f"-{style}")
        plain = name.removeprefix(f"{style}-") if plain == name else plain
        if plain != name:
            name = plain
            break
    words = [word for word in name.split("-") if word]
    while len(words) > 1 and words[-1] in STYLE_WORDS:
        words.pop()
    if digit := _DIGIT.fullmatch("-".join(words)):
        found = digit[1]
        return f"digit {_DIGIT_WORDS.index(found) if found in _DIGIT_WORDS else found}"
    while len(words) > 1 and (words[-1] in STYLE_WORDS or _NUMBER.fullmatch(words[-1])):
        words.pop()
    words[-1] = re.sub(r"(?<=[a-z]{2})\d+$", "", words[-1])
    return " ".join(words)


def squeezed(name: str) -> str:
    """Return a name without spaces and hyphens, as some sets write it."""
    return name.replace(" ", "").replace("-", "")


@lru_cache(maxsize=1)
def _read() -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """Return (data set, class) by each name of a class, and the names that mean something else in a set."""
    table = yaml.safe_load(CLASSES_FILE.read_text(encoding="utf-8"))
    elsewhere = {hand: set(map(squeezed, names)) for hand, names in table.pop("elsewhere").items()}
    owners: dict[str, tuple[str, str]] = {}
    for dataset, classes in table.items():
        for classname, names in classes.items():
            for key in {squeezed(name) for name in (classname, *names)}:
                if key in owners:
                    raise ValueError(f"{CLASSES_FILE.name}: {key!r} is a name of {owners[key][1]} and of {classname}")
                owners[key] = dataset, classname
    return owners, elsewhere


def suite_class(name: str, hand: str = "") -> tuple[str, str] | None:
    """Return (data set, class) of a plain name, or None; in some sets (``hand``), some names mean something else."""
    owners, elsewhere = _read()
    if any(squeezed(name) in elsewhere.get(where, ()) for where in (hand, "emoji" if hand in EMOJI else "")):
        return None
    tries = [name]
    tries += [name[: -len(count) - 1] for count in _COUNTS if name.endswith(" " + count)]
    tries += [name[len(theme) + 1 :] for theme in THEMES if name.startswith(theme + " ")]
    return next((owners[squeezed(word)] for word in tries if squeezed(word) in owners), None)

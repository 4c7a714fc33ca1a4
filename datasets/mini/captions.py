"""Captions of pre-training: a sentence with the picture's name, or its set's name for it, and sometimes its colour."""

import numpy as np

COLOURS = {
    "red": (214, 40, 40), "orange": (243, 136, 32), "yellow": (240, 205, 40), "green": (50, 150, 60),
    "blue": (40, 90, 210), "cyan": (50, 190, 210), "purple": (125, 60, 170), "pink": (240, 120, 170),
    "brown": (120, 75, 40), "black": (15, 15, 15), "white": (245, 245, 245), "gray": (128, 128, 128),
}  # fmt: skip
TEMPLATES = (
    "a photo of a {}.", "a photo of a {}.", "a photo of a {}.", "a picture of a {}.", "an image of a {}.", "{}", "{}.",
    "a {}.", "the {}.", "a photo of the {}.", "a photo of {}.", "this is a {}.", "there is a {} here.",
    "a drawing of a {}.", "an icon of a {}.", "a sign that shows a {}.", "a good photo of a {}.", "a small {}.",
)  # fmt: skip
LONG_TEMPLATES = (
    "this is a rather long way to say that in this picture one can see a {}.",
    "in front of a background that does not matter at all there is, as anyone can see, a {}.",
    "a picture which was taken some time ago and which shows, among nothing else of note, a {}.",
)
PER_BATCH = 4  # templates, so that equal names often share a caption, which is then encoded once
LONG_EVERY = 16
WITH_COLOUR = 0.15
CANONICAL = 0.7  # share of captions that say the name itself, not what the picture's set calls it


def caption_batch(
    names: list[str], said: list[str], colours: np.ndarray, rng: np.random.Generator, long: bool = False
) -> tuple[list[str], np.ndarray]:
    """Return a caption for each of B pictures, and the colours (B,) that they state, 0 for none.

    ``names`` are canonical names, ``said`` the names in the pictures' sets. ``colours`` (B,) index ``COLOURS`` plus 1;
    0 is a picture in several colours or none worth saying. ``long`` takes the long sentences.
    """
    pool = LONG_TEMPLATES if long else TEMPLATES
    chosen = rng.choice(len(pool), min(PER_BATCH, len(pool)), replace=False)
    which = rng.integers(len(chosen), size=len(names))
    own = rng.random(len(names)) < CANONICAL
    stated = np.where(rng.random(len(names)) < WITH_COLOUR, colours, 0)
    words = list(COLOURS)
    texts = []
    for i, (name, other) in enumerate(zip(names, said)):
        noun = name if own[i] else other
        texts.append(pool[chosen[which[i]]].format(f"{words[stated[i] - 1]} {noun}" if stated[i] else noun))
    return texts, stated


def all_texts(names: list[str], said: list[str]) -> list[str]:
    """Return texts that together have every token that a caption can have."""
    nouns = sorted({*names, *said})
    texts = [template.format(f"{colour} house") for template in (*TEMPLATES, *LONG_TEMPLATES) for colour in COLOURS]
    return texts + nouns + [f"{noun}." for noun in nouns]

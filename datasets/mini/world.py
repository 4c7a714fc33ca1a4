"""The world that the mini CLIP is pre-trained on: its scenes, looks and captions, and what is held out.

A scene and a caption are compared by their facts: a caption is true of a picture if every fact that it states holds
there. Nothing of the mini data sets' looks, and no composition in ``HELD_OUT``, is ever drawn here.
"""

from dataclasses import dataclass, replace

import numpy as np

from .draw import COLOURS, SHAPES, Figure, Look, Scene

FIGURE_TEXTURES = ("solid", "hollow", "striped", "dotted", "checkered", "wavy", "netted", "ringed")
FILL_TEXTURES = ("striped", "dotted", "checkered", "wavy", "netted", "ringed", "zigzag", "bricked", "scaly", "speckled")
RELATION_SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COUNT_SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "flower")
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"

# Compositions that pre-training never shows and never names.
HELD_OUT: dict[str, frozenset[tuple]] = {
    "texture+shape": frozenset({
        ("striped", "star"), ("dotted", "heart"), ("checkered", "moon"), ("wavy", "circle"), ("netted", "arrow"),
        ("ringed", "square"), ("striped", "house"), ("dotted", "cross"), ("checkered", "triangle"), ("wavy", "flower"),
        ("netted", "heart"), ("ringed", "star"),
    }),
    "colour+shape": frozenset({
        ("red", "square"), ("green", "heart"), ("blue", "star"), ("yellow", "circle"), ("purple", "triangle"),
        ("orange", "cross"), ("cyan", "moon"), ("pink", "arrow"), ("white", "house"), ("brown", "flower"),
    }),
    "count+shape": frozenset({
        (2, "star"), (3, "circle"), (4, "heart"), (5, "square"), (2, "triangle"), (3, "cross"), (4, "moon"),
    }),
    "relation": frozenset({
        ("above", "circle", "square"), ("above", "heart", "star"), ("above", "cross", "triangle"),
        ("left", "star", "circle"), ("left", "square", "heart"), ("left", "triangle", "cross"),
        ("inside", "circle", "star"), ("inside", "heart", "square"), ("inside", "triangle", "circle"),
    }),
}  # fmt: skip

# The looks of pre-training. A name other than "" may be said in a caption, by the templates of that name.
LOOKS: dict[str, Look] = {
    "photo": Look(),
    "drawing": Look(paper=((225, 220, 205), (255, 255, 255)), contrast=0.25, grain=0.02, pen=0.035, radius=(0.5, 0.85)),
    "night": Look(paper=((0, 0, 0), (70, 70, 90)), contrast=0.35, grain=0.05, jitter=0.12, radius=(0.5, 0.85)),
    "painting": Look(grain=0.03, blur=0.6, wobble=0.05, jitter=0.14, turn=20.0, drift=0.18, radius=(0.5, 0.85)),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "": (
        "a photo of {}.", "a photo of {}.", "{}.", "{}", "a picture of {}.", "an image of {}.", "this is {}.",
        "a picture showing {}.", "there is {} here.", "here we see {}.", "look at {}.", "a good photo of {}.",
    ),
    "photo": ("a colourful photo of {}.", "a photo of {} in the sun."),
    "drawing": ("a drawing of {}.", "{} drawn on paper.", "a drawing of {} with an outline."),
    "night": ("a photo of {} at night.", "{} in the dark.", "a dark photo of {}."),
    "painting": ("a painting of {}.", "{} painted with a brush.", "a blurry painting of {}."),
}  # fmt: skip
LONG_TEMPLATES = (
    "this is a rather long way to say that in this picture one can see {}.",
    "in front of a background that does not matter at all there is, as anyone can see, {}.",
    "a picture which was taken some time ago and which shows, among nothing else of note, {}.",
)


# What a caption names that does not name all of a figure; the oftener, the likelier.
PARTS = (("shape",),) * 2 + (("texture", "shape"),) * 2 + (("colour", "shape"), ("texture",), ("colour",))


@dataclass(frozen=True)
class Facts:
    """What a caption states or a picture holds; "" is open (in a caption) or does not apply (in a picture)."""

    kind: str = ""  # figure, count, above, left, inside, fill, glyph
    count: str = ""
    colour: str = ""
    texture: str = ""
    shape: str = ""
    colour2: str = ""
    shape2: str = ""
    look: str = ""


def facts_of(scene: Scene, look: str) -> Facts:
    """Return all facts of a picture of ``scene`` in the look of that name."""
    first = scene.figures[0]
    facts = Facts("figure", "", first.colour, first.texture, first.shape, look=look)
    if scene.layout == "many":
        return replace(facts, kind="count", count=COUNTS[len(scene.figures)], texture="")
    if scene.layout != "one":
        second = scene.figures[1]
        return replace(facts, kind=scene.layout, texture="", colour2=second.colour, shape2=second.shape)
    if first.shape == "fill":
        return replace(facts, kind="fill", shape="")
    if first.shape not in SHAPES:
        return replace(facts, kind="glyph", texture="")
    return facts


def held_out(scene: Scene) -> bool:
    """Return whether ``scene`` holds a composition that pre-training must not show."""
    shapes = [figure.shape for figure in scene.figures]
    return (
        any((f.texture, f.shape) in HELD_OUT["texture+shape"] for f in scene.figures)
        or any((f.colour, f.shape) in HELD_OUT["colour+shape"] for f in scene.figures)
        or (scene.layout == "many" and (len(shapes), shapes[0]) in HELD_OUT["count+shape"])
        or (len(shapes) == 2 and (scene.layout, *shapes) in HELD_OUT["relation"])
    )


def _pick(rng: np.random.Generator, choices) -> str:
    choices = list(choices)
    return choices[rng.integers(len(choices))]


KINDS = {"figure": 0.50, "count": 0.10, "relation": 0.14, "fill": 0.08, "glyph": 0.18}


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of the pre-training world at random; held-out ones are drawn again."""
    while True:
        kind = list(KINDS)[rng.choice(len(KINDS), p=list(KINDS.values()))]
        colour = _pick(rng, COLOURS)
        if kind == "figure":
            scene = Scene((Figure(_pick(rng, SHAPES), _pick(rng, FIGURE_TEXTURES), colour),))
        elif kind == "count":
            scene = Scene((Figure(_pick(rng, COUNT_SHAPES), "solid", colour),) * int(rng.integers(1, 7)), "many")
        elif kind == "relation":
            a, b = rng.choice(RELATION_SHAPES, 2, replace=False)
            other = _pick(rng, [c for c in COLOURS if c != colour])
            pair = (Figure(str(a), "solid", colour), Figure(str(b), "solid", other))
            scene = Scene(pair, _pick(rng, ("above", "left", "inside")))
        elif kind == "fill":
            scene = Scene((Figure("fill", _pick(rng, FILL_TEXTURES), colour),))
        else:
            # letters are more than digits, but ten digits must be known as well as 26 letters
            scene = Scene((Figure(_pick(rng, LETTERS if rng.random() < 0.7 else DIGITS), "solid", colour),))
        if not held_out(scene):
            return scene


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def phrase(facts: Facts, rng: np.random.Generator) -> str:
    """Say ``facts`` (of which some may be open) in words, without the look."""
    bare = [w for w in (facts.colour, facts.texture, facts.shape or "figure") if w]
    if facts.kind == "figure":
        words = " ".join(bare)
        return words if rng.random() < 0.2 else _article(words)
    if facts.kind == "count":
        noun = facts.shape or "figure"
        words = [facts.count, facts.colour, noun if facts.count == "one" else plural(noun)]
        return " ".join(w for w in words if w)
    if facts.kind == "fill":
        noun = _pick(rng, ("texture", "texture", "pattern"))
        words = " ".join(w for w in (facts.colour, facts.texture, noun) if w)
        return words if rng.random() < 0.5 else _article(words)
    if facts.kind == "glyph":
        noun = ("digit " if facts.shape in DIGITS else "letter ") + facts.shape.lower()
        words = f"{facts.colour} {noun}".strip()
        return f"the {words}" if rng.random() < 0.4 else words if rng.random() < 0.3 else _article(words)
    first = _article(" ".join(w for w in (facts.colour, facts.shape) if w))
    second = _article(" ".join(w for w in (facts.colour2, facts.shape2) if w))
    forward, backward = {
        "above": (("above",), ("below", "under")),
        "left": (("left of", "to the left of"), ("right of", "to the right of")),
        "inside": (("inside",), ("around",)),
    }[facts.kind]
    if rng.random() < 0.6:
        return f"{first} {_pick(rng, forward)} {second}"
    return f"{second} {_pick(rng, backward)} {first}"


def caption(picture: Facts, rng: np.random.Generator, full: bool, long: bool = False) -> tuple[str, Facts]:
    """Return a true caption of a picture and the facts that it states.

    Args:
        picture: all facts of the picture.
        rng: source of the words' choice.
        full: whether to name every attribute; otherwise a random part of them.
        long: whether to take one of the long templates.

    Returns:
        The caption and its facts.
    """
    stated = replace(picture, look="")
    if not full:
        if picture.kind == "figure":
            keep = PARTS[rng.integers(len(PARTS))]
            stated = replace(stated, **{name: "" for name in ("colour", "texture", "shape") if name not in keep})
        else:
            stated = replace(stated, colour="", colour2="")
    name = "" if long or rng.random() < 0.7 else picture.look
    template = _pick(rng, LONG_TEMPLATES if long else TEMPLATES[name])
    return template.format(phrase(stated, rng)), replace(stated, look=name)

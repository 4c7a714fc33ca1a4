"""The pre-training world: what is held out is absent, and captions are true."""

import re
from dataclasses import fields
from itertools import permutations, product

import numpy as np
import pytest

from datasets.mini.draw import COLOURS, SHAPES, Figure, Scene
from datasets.mini.suite import SUITE, source_classes
from datasets.mini.world import (
    COUNT_SHAPES,
    FIGURE_TEXTURES,
    HELD_OUT,
    LOOKS,
    RELATION_SHAPES,
    caption,
    facts_of,
    held_out,
    sample_scene,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(3)
    return [sample_scene(rng) for _ in range(30000)]


def test_the_world_shows_every_composition_but_the_held_out_ones(scenes):
    shown: dict[str, set] = {kind: set() for kind in HELD_OUT}
    for scene in scenes:
        figures = [f for f in scene.figures if f.shape in SHAPES]
        if scene.layout == "one":
            shown["texture+shape"].update((f.texture, f.shape) for f in figures)
        shown["colour+shape"].update((f.colour, f.shape) for f in figures)
        if scene.layout == "many":
            shown["count+shape"].add((len(figures), figures[0].shape))
        elif len(figures) == 2:
            shown["relation"].add((scene.layout, *(f.shape for f in figures)))
    everything = {
        "texture+shape": set(product(FIGURE_TEXTURES, SHAPES)),
        "colour+shape": set(product(COLOURS, SHAPES)),
        "count+shape": set(product(range(1, 7), COUNT_SHAPES)),
        "relation": {(r, *pair) for r in ("above", "left", "inside") for pair in permutations(RELATION_SHAPES, 2)},
    }
    for kind, compositions in everything.items():
        assert HELD_OUT[kind] < compositions
        assert shown[kind] == compositions - HELD_OUT[kind], kind


def test_captions_never_name_a_held_out_composition(scenes):
    rng = np.random.default_rng(4)
    said = " | ".join(caption(facts_of(s, "photo"), rng, i % 2 == 0)[0] for i, s in enumerate(scenes))
    assert "striped triangle" in said and "red heart" in said
    for first, shape in HELD_OUT["texture+shape"] | HELD_OUT["colour+shape"]:
        assert re.search(rf"\b{first} {shape}", said) is None


def test_captions_state_facts_of_their_picture(scenes):
    rng = np.random.default_rng(5)
    for i, scene in enumerate(scenes[:3000]):
        picture = facts_of(scene, list(LOOKS)[i % len(LOOKS)])
        text, stated = caption(picture, rng, i % 2 == 0, i % 7 == 0)
        for field in fields(stated):
            value = getattr(stated, field.name)
            assert value in ("", getattr(picture, field.name))
            if value and field.name in ("colour", "texture", "shape", "count", "colour2", "shape2"):
                assert value.lower() in text
        if stated.shape == "":
            assert picture.shape == "" or picture.shape not in text


def test_a_relation_can_be_said_from_both_ends():
    scene = Scene((Figure("heart", "solid", "red"), Figure("circle", "solid", "blue")), "above")
    rng = np.random.default_rng(6)
    said = {caption(facts_of(scene, "photo"), rng, False)[0] for _ in range(200)}
    assert "a heart above a circle." in said and "a circle below a heart." in said
    assert not any("circle above" in text or "heart below" in text for text in said)


def test_no_mini_set_has_a_look_of_pretraining_and_the_source_has_held_out_classes():
    assert all(mini.look not in LOOKS.values() for mini in SUITE.values())
    new = [held_out(scene) for _, scene in source_classes()]
    assert sum(new[:20]) == sum(new[20:]) == 5

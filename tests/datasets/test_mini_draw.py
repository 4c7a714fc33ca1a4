"""The generator: fixed by its seed, and what it draws is what the scene says."""

import math

import numpy as np
import pytest
from scipy import ndimage

from datasets.mini.draw import COLOURS, SHAPES, SIZE, TEXTURES, Figure, Look, Scene, draw, stream

# White ink on a black background, nothing at random but place and size.
PLAIN = Look(paper=((0, 0, 0), (0, 0, 0)), contrast=0.0, grain=0.0, jitter=0.0, turn=0.0, drift=0.0, radius=(0.7, 0.7))


def pixels(scene: Scene, look: Look = PLAIN, seed: int = 0, *names: object) -> np.ndarray:
    return np.asarray(draw(scene, look, stream(seed, *names)))


def white(shape: str, texture: str = "solid") -> Scene:
    return Scene((Figure(shape, texture, "white"),))


def test_same_seed_same_bytes_other_seed_others():
    look = Look(turn=30.0, wobble=0.05, rough=0.2, distractors=3, cover=0.1, blur=0.5, ruled=0.2)
    scene = Scene((Figure("star", "wavy", "red"),))
    first = pixels(scene, look, 1, "set", "train", 0)
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    assert (first == pixels(scene, look, 1, "set", "train", 0)).all()
    for other in ((2, "set", "train", 0), (1, "tes", "train", 0), (1, "set", "test", 0), (1, "set", "train", 1)):
        assert (first != pixels(scene, look, *other)).mean() > 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_covers_the_area_of_its_polygon(shape):
    points = np.array(SHAPES[shape])
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2  # shoelace
    covered = pixels(white(shape)).astype(float).mean() / 250 * 4 / 0.7**2
    assert covered == pytest.approx(area, rel=0.05)
    assert np.hypot(x, y).max() < 1.25  # so that a figure stays in the picture


@pytest.mark.parametrize(
    ("texture", "share"),
    [
        ("solid", 1.0),
        ("striped", 0.5),
        ("dotted", 1 - math.pi * 0.32**2),
        ("checkered", 0.5),
        ("wavy", 0.5),
        ("netted", 1 - 0.66**2),
        ("ringed", 0.5),
        ("zigzag", 0.5),
        ("bricked", 0.82 * 0.72),
    ],
)
def test_a_texture_has_the_first_ink_on_its_share(texture, share):
    side = np.arange(-6600, 6600, 13.7) / 1000
    u, v = np.meshgrid(side, side)
    assert TEXTURES[texture](u, v).mean() == pytest.approx(share, abs=0.03)


def test_hollow_is_a_line_with_a_hole():
    inside = pixels(white("square", "hollow"))[SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4]
    assert inside.max() == 0
    holes, count = ndimage.label(pixels(white("square", "hollow"))[..., 0] < 125)
    assert count == 2  # outside and inside


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_counts_can_be_counted(number):
    scene = Scene((Figure("circle", "solid", "white"),) * number, "many")
    for seed in range(5):
        _, found = ndimage.label(pixels(scene, seed=seed)[..., 0] > 125)
        assert found == number


@pytest.mark.parametrize(("layout", "axis"), [("above", 0), ("left", 1)])
def test_the_first_figure_lies_where_the_relation_says(layout, axis):
    scene = Scene((Figure("circle", "solid", "red"), Figure("square", "solid", "blue")), layout)
    image = pixels(scene).astype(float)
    first, second = (ndimage.center_of_mass(image[..., channel] > 150) for channel in (0, 2))
    assert first[axis] < second[axis] - SIZE / 4
    assert abs(first[1 - axis] - second[1 - axis]) < SIZE / 8


def test_inside_the_first_figure_lies_on_the_second():
    scene = Scene((Figure("circle", "solid", "red"), Figure("square", "solid", "blue")), "inside")
    image = pixels(scene)
    assert image[SIZE // 2, SIZE // 2].argmax() == 0  # red in the middle
    red, blue = image[..., 0] > 150, image[..., 2] > 150
    box = ndimage.find_objects(blue.astype(int))[0]
    assert red.sum() > 50 and red.sum() == red[box].sum()


def test_the_ink_is_the_colour_and_stands_out_from_the_background():
    for name, rgb in COLOURS.items():
        look = Look(grain=0.0, jitter=0.0, radius=(0.7, 0.7), drift=0.0)
        images = [pixels(Scene((Figure("circle", "solid", name),)), look, seed) for seed in range(5)]
        assert all(tuple(image[SIZE // 2, SIZE // 2]) == rgb for image in images)
        gaps = [np.linalg.norm(image[1, 1].astype(float) - np.array(rgb)) / 255 for image in images]
        assert np.median(gaps) > 0.35  # a gradient may pass by the ink somewhere, but not as a rule


@pytest.mark.parametrize("font", ["default", "DejaVuSans.ttf"])
def test_glyphs_differ(font):
    look = Look(**{**vars(PLAIN), "fonts": (font,)})
    seen = {pixels(white(glyph), look).tobytes() for glyph in "ABCXYZ0123"}
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene((Figure("blob"),)), "shape 'blob'"),
        (Scene((Figure("star", "furry"),)), "texture 'furry'"),
        (Scene((Figure("star", "solid", "mauve"),)), "colour 'mauve'"),
        (Scene((Figure("star"),), "beside"), "layout 'beside'"),
    ],
)
def test_unknown_words_are_named(scene, words):
    with pytest.raises(ValueError, match=words):
        draw(scene, PLAIN, stream(0))

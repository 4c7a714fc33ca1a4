"""Generated images, configs and config files: read right, or refused in one line."""

import io
import math
import warnings

import numpy as np
import torch
import yaml
from dassl.config import check_values, get_cfg_default
from dassl.config.defaults import DEFAULTS
from dassl.config.files import read_yaml
from dassl.config.node import leaves
from dassl.data.samplers import SAMPLERS
from dassl.data.transforms import AVAI_CHOICES, build_transform
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import read_image
from hypothesis import strategies as st
from PIL import Image

from tests.reference.generated import generated, is_one_line

MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"], "JPEG": ["L", "RGB", "CMYK"], "GIF": ["P"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"], "WEBP": ["RGB", "RGBA"], "PPM": ["1", "L", "RGB", "I", "F"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
}  # fmt: skip


def picture(kind, mode, width, height, seed):
    """An image file of noise."""
    stream = np.random.RandomState(seed)
    noise = Image.fromarray(stream.randint(0, 256, (height, width, 3), dtype=np.uint8))
    if mode[0] in "IF":
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        noise = Image.fromarray(np.asarray(noise)[..., 0].astype(types[mode]) * 200)
    elif mode == "LAB":
        noise = Image.frombytes("LAB", (width, height), noise.tobytes())
    else:
        noise = noise.convert(mode)
    buffer = io.BytesIO()
    noise.save(buffer, kind)
    return buffer.getvalue()


FILES = st.sampled_from([(kind, mode) for kind, modes in MODES.items() for mode in modes])
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)


@generated(
    150,
    1200,
    file=FILES,
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    edits=EDITS,
    cut=st.integers(0, 600) | st.just(10**6),
    turn=st.booleans(),
)
def test_any_image_file_is_a_picture_or_refused(folder, file, width, height, edits, cut, turn):
    """Noise of all formats and modes, with other bytes in its head, and cut off."""
    content = bytearray(picture(*file, width, height, seed=width * height))
    for position, value in edits:
        content[position % len(content)] = value
    path = folder / f"{edits and 'changed'}.jpg"
    path.write_bytes(content[:cut])
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 10**6  # so that headers that claim much cost little
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_image(str(path), turn)
    except Exception as error:
        assert is_one_line(error) and str(path) in str(error), repr(error)
        assert edits or cut < len(content) or file[1] == "LAB", error
    else:
        assert image.mode == "RGB" and 0 < image.width * image.height <= 2 * 10**6
        if not edits and cut >= len(content):
            assert image.size == (width, height)
            assert width * height < 4 or file[1] in "1PLALAB" or np.ptp(np.asarray(image)) > 50
    finally:
        Image.MAX_IMAGE_PIXELS = limit


KEYS = dict(leaves(get_cfg_default()))
NUMBERS = (
    st.integers(-3, 40) | st.floats() | st.sampled_from([0, 1, 0.5, 1e-4, -1.0, float("nan"), float("inf"), 2**40])
)
WORDS = st.sampled_from(
    [*AVAI_CHOICES, *SAMPLERS, "sgd", "adam", "adamw", "rmsprop", "radam", "amsgrad", "cosine", "multi_step",
     "single_step", "constant", "linear", "bilinear", "bicubic", "nearest", "best_val", "last_step", "val", "test", ""]
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS, WORDS, st.booleans(), st.none(), st.text(max_size=6), st.lists(NUMBERS | WORDS, max_size=4),
    st.lists(st.integers(1, 40), min_size=2, max_size=2), st.lists(WORDS, max_size=5), NUMBERS.map(str),
)  # fmt: skip
FITTING = {str: WORDS, float: st.floats(0, 1) | NUMBERS.map(float), int: st.integers(-1, 33), bool: st.booleans()}


def fitting(key):
    """Values of the type of a key."""
    return FITTING.get(type(KEYS[key]), st.lists(FITTING[float] | st.integers(1, 30) | WORDS, min_size=1, max_size=3))


PAIRS = st.sampled_from(list(KEYS)).flatmap(lambda key: st.tuples(st.just(key), VALUES | fitting(key) | fitting(key)))


@generated(120, 900, pairs=st.lists(PAIRS, min_size=1, max_size=5))
def test_any_config_works_or_is_refused(folder, pairs):
    """What is taken builds transforms, an optimizer and a schedule; they give finite images and rates from 0."""
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (16, 16)
    try:
        cfg.merge_from_list([word for pair in pairs for word in pair])
        check_values(cfg)
    except Exception as error:
        assert is_one_line(error), repr(error)
        return
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 70, 3), dtype=np.uint8))
    for is_train in (True, False):
        transform = build_transform(cfg, is_train)
        if transform is not None:
            made = transform(image)
            assert made.shape == (3, *cfg.INPUT.SIZE) and torch.isfinite(made).all(), cfg.INPUT
    weight = torch.nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build_optimizer(weight, cfg.OPTIM)
        schedule = build_lr_scheduler(optimizer, cfg.OPTIM)
        for _ in range(3):
            weight(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            schedule.step()
            rates = [group["lr"] for group in optimizer.param_groups]
            assert all(math.isfinite(rate) and rate >= 0 for rate in rates), cfg.OPTIM


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates() | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})) | st.text(), inner)
    ),
)


@generated(
    200,
    1800,
    text=TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))
    | st.text(max_size=60)
    | st.text("[]{}:-&*!\n aAb1'\"<|>#%,?", max_size=60),
)
def test_any_yaml_file_is_merged_or_refused(folder, text):
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        get_cfg_default().merge_from_file(str(path))
    except Exception as error:
        assert is_one_line(error) and (isinstance(error, KeyError) or str(path) in str(error)), repr(error)
    else:
        assert set(read_yaml(str(path))) <= set(DEFAULTS)

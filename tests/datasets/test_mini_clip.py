"""The committed weights of the mini world's CLIP give the committed figures (zero_shot.json), aim by aim."""

import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from datasets.mini.evaluate import OWN, UNKNOWN_WORDS, aims, images_of, load_whole
from datasets.mini.pack import WORLD, read_manifest
from datasets.mini.suite import read_suite
from prompting.clip import load_clip
from tests.reference.params import long_but

WEIGHTS = WORLD / "mini_clip.safetensors"
KEPT = json.loads((WORLD / "zero_shot.json").read_text(encoding="utf-8"))
SUITE = read_suite()
CLOSE = 1.0  # percent: another BLAS may turn an image or two


@pytest.fixture(scope="module")
def model():
    return load_clip(WEIGHTS)


@torch.no_grad()
def text_features(model, sentences):
    return torch.nn.functional.normalize(model.encode_text(open_clip.tokenize(sentences)), dim=-1)


@torch.no_grad()
def percent_right(model, dataset):
    """Zero-shot accuracy by its definition, with the library's loader: highest cosine of image and sentence."""
    images, labels = images_of(dataset, "test")
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.visual.image_mean, model.visual.image_std))
    text = text_features(model, [dataset.template.format(name) for name in dataset.classes()])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    features = torch.nn.functional.normalize(model.encode_image((pixels - mean) / std), dim=-1)
    return 100 * float(((features @ text.T).argmax(1).numpy() == labels).mean())


@pytest.mark.slow
@pytest.mark.parametrize("folder", long_but(SUITE, "mini_weather", "mini_plants"))
def test_zero_shot_figures_are_recomputed(model, folder):
    assert KEPT["sets"][folder]["classes"] == len(SUITE[folder].classes())
    assert percent_right(model, SUITE[folder]) == pytest.approx(KEPT["sets"][folder]["all"], abs=CLOSE)


def test_own_class_names(model):
    """Five classes that are in no data set are told apart as well as zero_shot.json says."""
    words = OWN.classes()
    assert len(words) == 5 and not {*words} & {name for dataset in SUITE.values() for name in dataset.classes()}
    pictures = {(entry.hand, entry.icon) for entry in read_manifest() if entry.dataset == OWN.folder}
    assert len(pictures) >= 6 * len(words)
    assert percent_right(model, OWN) == pytest.approx(KEPT[OWN.folder]["all"], abs=CLOSE)


def test_unknown_words_and_temperature(model):
    known = set(load_file(WEIGHTS)["token_embedding.ids"].tolist())
    unknown = [word for word in UNKNOWN_WORDS if not {*open_clip.tokenize([word])[0, 1:-1].tolist()} <= known]
    assert len(unknown) >= 5
    features = text_features(model, [f"a photo of a {word}." for word in UNKNOWN_WORDS])
    highest = float((features @ features.T - 2 * torch.eye(len(features))).max())
    assert highest == pytest.approx(KEPT["unknown_words"], abs=0.005)
    assert float(model.logit_scale.exp()) == pytest.approx(KEPT["temperature"], abs=0.05)
    assert list(KEPT["sets"]) == list(SUITE) and aims(KEPT) == KEPT["aims"] and WEIGHTS.stat().st_size < 16 * 2**20


def test_the_library_and_pre_training_read_the_same_weights(model):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.float32)
    pixels = torch.from_numpy(images / 255)
    with torch.no_grad():
        torch.testing.assert_close(load_whole(WEIGHTS).encode_image(pixels), model.encode_image(pixels))

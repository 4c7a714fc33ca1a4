"""Class names that CLIP cannot tell apart are refused for custom data, and told for others."""

import logging

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import build_trainer

import train
from prompting.clip import load_clip
from prompting.clip.classnames import check_features, check_tokens
from prompting.clip.tokens import clip_tokenizer
from tests.reference.clip_states import vit_state
from tests.reference.layouts import class_folders


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["dog", "Cat", "cat"], "'Cat' and 'cat' are the same"),
        (["house_sparrow", "bee", "house sparrow"], "'house_sparrow' and 'house sparrow' are the same"),
        (["caf&eacute;", "café"], "are the same"),  # the tokenizer reads HTML
        (["a b", "a  b", " a b", "c"], r"'a b' and 'a  b' \(and 1 more pair\) are the same"),
        (["ﬁnch", "finch"], "are the same"),  # a ligature
        (["dog", "\N{NO-BREAK SPACE}"], "no token in the class name"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_of_the_same_tokens(names, words):
    with pytest.raises(ValueError, match=words):
        check_tokens(names, refuse=True)


def test_others_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        check_tokens(["crane", "dog", "crane"], refuse=False)
    assert "'crane' and 'crane' are the same to this CLIP: they have the same tokens" in caplog.text
    caplog.clear()
    check_tokens(["crane", "dog"], refuse=True)
    assert not caplog.text


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A CLIP to which "cat" and "dog" are one word."""
    state = vit_state(patch=16, grid=2, vision_layers=1, text_layers=2)
    cat, dog = (clip_tokenizer().encode(word)[0] for word in ("cat", "dog"))
    state["token_embedding.weight"][cat] = state["token_embedding.weight"][dog]
    path = tmp_path_factory.mktemp("clip") / "blind.pt"
    torch.save(state, path)
    return path


def test_names_of_the_same_features(blind, caplog):
    clip = load_clip(str(blind))
    with pytest.raises(ValueError, match="'cat' and 'dog' are the same .* cosine of 0.9999 or more"):
        check_features(clip, ["bee", "cat", "house", "dog"], "a photo of a {}.", refuse=True)
    check_features(clip, ["bee", "cat", "house"], "a photo of a {}.", refuse=True)
    check_features(clip, ["bee", "cat", "dog"], "a photo of a {}.", refuse=False)
    assert caplog.text.count("are the same to this CLIP") == 1


@pytest.mark.parametrize(("names", "words"), [(["Cat", "cat"], "the same tokens"), (["cat", "dog"], "text features")])
def test_a_run_on_custom_data_is_refused_and_on_others_told(tmp_path, blind, names, words, monkeypatch, caplog):
    class_folders(tmp_path, names)
    files = ["--dataset-config-file", "configs/datasets/folder.yaml", "--root", str(tmp_path)]
    flags = ["--trainer", "ZeroshotCLIP", "--backbone", str(blind), "--device", "cpu"]
    cfg = train.setup_cfg(train.parse_args([*files, *flags, "INPUT.SIZE", "(32,32)"]))
    with pytest.raises(ValueError, match=f"are the same to this CLIP: they have {words}"):
        build_trainer(cfg)
    monkeypatch.setattr(DATASET_REGISTRY.get("Folder"), "root_is_data", False)  # as the fifteen sets
    build_trainer(cfg)
    assert f"are the same to this CLIP: they have {words}" in caplog.text

"""The parts of the pre-training script, against loops and against open_clip."""

import importlib.util
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

PROJECT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("pretrain_mini_clip", PROJECT / "scripts" / "pretrain_mini_clip.py")
pretrain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pretrain)


@pytest.fixture(scope="module")
def batches():
    drawn = [pretrain.picture(i, 5) for i in range(150)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    return pretrain.Batches(images, [facts for _, facts in drawn], 12, 5)


@pytest.fixture(scope="module")
def model():
    return pretrain.build(0).eval()


def test_truth_by_a_loop(batches):
    rng = np.random.default_rng(0)
    said = [pretrain.caption(f, rng, i % 2 == 0)[1] for i, f in enumerate(batches.facts[:60])]
    found = pretrain.truth(batches.codes, pretrain.codes(said, batches.book))
    for i, picture in enumerate(batches.facts):
        for j, stated in enumerate(said):
            names = [field.name for field in fields(stated)]
            true = all(getattr(stated, n) in ("", getattr(picture, n)) for n in names)
            assert found[i, j] == true
    assert found.diagonal().all() and 60 < found.sum() < 3000


def test_contrast_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(4, 8, generator=generator), torch.randn(6, 8, generator=generator)
    true = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0]]).bool()
    cosine = [[float(torch.cosine_similarity(i, t, dim=0)) * 5 for t in text] for i in image]
    rows = [-sum(c[j] for j in range(6) if true[i, j]) / int(true[i].sum()) + math.log(sum(map(math.exp, c)))
            for i, c in enumerate(cosine)]  # fmt: skip
    columns = []
    for j in range(6):
        column = [cosine[i][j] for i in range(4)]
        good = [column[i] for i in range(4) if true[i, j]]
        columns.append(-sum(good) / len(good) + math.log(sum(map(math.exp, column))))
    expected = (sum(rows) / 4 + sum(columns) / 6) / 2
    assert float(pretrain.contrast(image, text, torch.tensor(5.0), true)) == pytest.approx(expected, rel=1e-5)


def test_a_batch_is_fixed_by_its_number_and_every_caption_is_true_of_its_picture(batches):
    first, again, other = batches(3), batches(3), batches(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])
    true = pretrain.truth(first[1], first[3])
    assert true.shape == (12, 24)
    assert all(true[i, i] and true[i, i + 12] for i in range(12))


def test_cut_text_is_encoded_as_whole_text(model):
    texts = ["a photo of a striped star.", "red.", "a picture of two hearts above each other and more words than that"]
    whole = model.encode_text(pretrain.SimpleTokenizer()(texts))
    tokenizer = pretrain.SimpleTokenizer()
    ids = [[tokenizer.sot_token_id, *tokenizer.encode(t), tokenizer.eot_token_id] for t in texts]
    torch.testing.assert_close(pretrain.encode_text(model, pretrain.padded(ids)), whole, rtol=1e-4, atol=1e-5)


def test_untrained_rows_are_zero_and_the_file_has_openais_keys(model, tmp_path):
    path = tmp_path / "clip.safetensors"
    pretrain.save(model, path, longest=30)
    state = load_file(path)
    assert all(value.dtype == torch.float16 for value in state.values())
    assert path.stat().st_size < 16 * 2**20
    rows = state["token_embedding.weight"].abs().sum(1) > 0
    assert 100 < rows.sum() < 500
    used = pretrain.SimpleTokenizer().encode("a photo of a striped star, the digit 7, three circles to the left of it")
    assert rows[[token for token in used if token not in pretrain.SimpleTokenizer().encode("of ,it")]].all()
    assert (state["positional_embedding"][30:] == 0).all() and (state["positional_embedding"][:30] != 0).any()
    width = pretrain.MODEL["vision_cfg"]["width"]
    assert state["visual.conv1.weight"].shape == (width, 3, 8, 8) and state["visual.proj"].shape[0] == width
    for key in ("visual.class_embedding", "visual.transformer.resblocks.3.attn.in_proj_weight", "logit_scale",
                "transformer.resblocks.2.mlp.c_fc.weight", "text_projection", "ln_final.bias"):  # fmt: skip
        assert key in state

"""Pre-training on pictures: unknown words, the towers on parts, losses by loops, resuming."""

import argparse
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from safetensors.torch import load_file

from datasets.mini import pretrain, stages
from datasets.mini.augment import compose
from datasets.mini.captions import COLOURS, all_texts, caption_batch
from datasets.mini.evaluate import encode_texts, load_whole
from datasets.mini.pack import WORLD
from datasets.mini.pretraining_pack import Pack, read_pack
from datasets.mini.sampling import Batches, name_weights
from datasets.mini.towers import Words, build, contrast, image_features, load, save, text_features
from datasets.mini.vocabulary import IDS, PARTS, mixtures, tokens_of

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "width": 64, "heads": 1, "layers": 1},
}
NAMES = ["bell", "cat", "key", "traffic cone"]
UNKNOWN = ("zebra", "violin", "submarine", "dog house", "xylophone", "velociraptor", "cats", "a", "日本")


@pytest.fixture(scope="module")
def pack():
    rng = np.random.default_rng(0)
    masks = (255 * (rng.random((30, 64, 64)) < 0.3)).astype(np.uint8)
    colours = rng.integers(0, 256, (10, 64, 64, 4), dtype=np.uint8)
    name = np.arange(40) % 4
    return Pack(masks, colours, NAMES, ["bell", "cat", "cone", "kitten", "key"], name, np.arange(40) % 5,
                np.array([True, True, True, False]))  # fmt: skip


@pytest.fixture
def tiny_stages(monkeypatch):
    plan = (
        stages.Stage("names", 48, 8, 1e-3, (0.0, 0.5), 0.5, (14.0, 14.0), 1, captions=False),
        stages.Stage("captions", 48, 8, 1e-3, (0.5, 1.0), 1.0, (14.0, 30.0), 1),
    )
    monkeypatch.setattr(pretrain, "STAGES", plan)
    return plan


def settings(folder, **more):
    folder.mkdir(exist_ok=True)
    given = dict(device="cpu", threads=1, chunk=3, autocast=None, seed=1, out=folder, work=folder, pictures=folder,
                 save_every=3, log_every=3, shape=TINY)  # fmt: skip
    return argparse.Namespace(**{**given, **more})


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a) and a.keys() == b.keys()


@pytest.mark.slow
def test_a_run_that_stopped_ends_as_if_it_had_not(pack, tiny_stages, tmp_path):
    whole = pretrain.Run(tiny_stages[0], pack, settings(tmp_path / "whole"))
    whole.train()
    broken = settings(tmp_path / "broken")
    pretrain.Run(tiny_stages[0], pack, broken).train(limit=3)
    again = pretrain.Run(tiny_stages[0], pack, broken)
    assert again.step == 3
    again.train()
    assert same(whole.model.state_dict(), again.model.state_dict())
    # the next stage begins with the float16 weights of this one
    assert pretrain.next_stage(whole.weights) is tiny_stages[1]
    second = pretrain.Run(tiny_stages[1], pack, settings(tmp_path / "whole"))
    expected = whole.model.state_dict()["visual.conv1.weight"].half().float()
    assert torch.equal(second.model.state_dict()["visual.conv1.weight"], expected)
    second.train(limit=3)
    inside = settings(tmp_path / "inside")
    second.export(inside.out / "mini_clip.safetensors", done=False)
    assert pretrain.next_stage(inside.out / "mini_clip.safetensors") is tiny_stages[1]
    assert pretrain.Run(tiny_stages[1], pack, inside).step == 3
    second.train()
    assert pretrain.next_stage(second.weights) is None and 27 < second.model.logit_scale.exp() < 100
    assert len((tmp_path / "whole" / "train_log.jsonl").read_text().splitlines()) == 4  # every third step
    other = Pack(pack.masks, pack.colours, ["a", *NAMES[1:]], pack.said, pack.name, pack.alias, pack.in_suite)
    with pytest.raises(ValueError, match="other pictures"):
        pretrain.Run(tiny_stages[0], other, broken)


def test_threads_and_chunks_change_nothing(pack, tiny_stages, tmp_path):
    gradients = []
    for threads, chunk in ((1, 100), (2, 3)):
        run = pretrain.Run(tiny_stages[0], pack, settings(tmp_path / f"{threads}", threads=threads, chunk=chunk))
        batch = run.batches(0, 0.5)
        stages.step_captions(run.model, run.words, batch, None, run.chunks)
        gradients.append({n: p.grad for n, p in run.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_unknown_words_differ(pack, tmp_path):
    used = tokens_of(all_texts(pack.names, pack.said), SimpleTokenizer())
    model = build(len(used), 0, TINY)
    with torch.no_grad():
        model.token_embedding.weight.normal_()
    path = tmp_path / "clip.safetensors"
    save(model, used, 40, path, {"stage": "names"})
    texts = [f"a photo of a {word}." for word in (*UNKNOWN, "bell", "cat")]
    features = encode_texts(load_whole(path, TINY), texts)
    assert len(torch.unique((1e4 * features).round(), dim=0)) == len(texts)
    again, rows, notes = load(path, TINY)
    assert rows == used and notes["stage"] == "names" and notes["longest"] == 40
    words = Words(used)
    rows, ends = words.batch(["a photo of a bell.", "cat"])
    known = F.normalize(text_features(again.eval(), rows, ends), dim=-1).detach()
    torch.testing.assert_close(known[0], features[-2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_mixtures_are_those_of_the_committed_weights_and_distinct():
    stored, tokenizer = load_file(WORLD / "mini_clip.safetensors"), SimpleTokenizer()
    used = stored[IDS].tolist()
    parts = mixtures(tuple(used))
    assert parts.shape == (49408, 3) and parts.dtype == torch.int16
    assert (parts != stored[PARTS]).any(1).sum() < 500  # another order of sums decides otherwise between equals
    assert (parts[used] == torch.arange(len(used))[:, None]).all()
    assert len(torch.unique(parts, dim=0)) == len(parts)
    (horses,), (horse,) = tokenizer.encode("horses"), tokenizer.encode("horse")
    assert horses not in used and int(parts[horses, 0]) == used.index(horse)


def test_towers_on_parts_are_the_towers_on_the_whole():
    model = build(50, 0, TINY).eval()
    pixels = torch.randn(3, 3, 64, 64)
    everything = torch.stack([torch.randperm(16) for _ in range(3)])
    for kept in (None, everything):
        features = image_features(model, pixels, kept)
        torch.testing.assert_close(features, model.encode_image(pixels), rtol=1e-4, atol=1e-5)
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :4], ids[1, :3] = torch.tensor([48, 3, 4, 49]), torch.tensor([48, 5, 49])
    cut = text_features(model, ids[:, :4], torch.tensor([3, 2]))
    torch.testing.assert_close(cut, model.encode_text(ids), rtol=1e-4, atol=1e-5)


def test_empty_patches_are_left_out_first():
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[0, :, 16:32, :8] = torch.randn(16, 8)  # patches 16 and 24 of a grid of 8 x 8
    pixels[1] = torch.randn(3, 64, 64)
    kept = stages.kept_patches(pixels, 8, 0.25, [1])
    assert kept.shape == (2, 16) and {16, 24} <= set(kept[0].tolist()) and len(set(kept[1].tolist())) == 16
    assert torch.equal(kept, stages.kept_patches(pixels, 8, 0.25, [1]))
    assert stages.kept_patches(pixels, 8, 1.0, [1]) is None


def test_contrast_by_a_loop():
    image, text = torch.randn(3, 4), torch.randn(4, 4)
    true = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]]).bool()
    cosine = [[5 * float(torch.cosine_similarity(i, t, dim=0)) for t in text] for i in image]
    rows = [math.log(sum(map(math.exp, c))) - sum(c[j] for j in range(4) if true[i, j]) / int(true[i].sum())
            for i, c in enumerate(cosine)]  # fmt: skip
    columns = []
    for j in range(4):
        column = [c[j] for c in cosine]
        good = [column[i] for i in range(3) if true[i, j]]
        columns.append(math.log(sum(map(math.exp, column))) - sum(good) / len(good))
    expected = (sum(rows) / 3 + sum(columns) / 4) / 2
    assert float(contrast(image, text, torch.tensor(5.0), true)) == pytest.approx(expected, rel=1e-5)


def test_batches_are_fixed_by_their_number_and_captions_are_true(pack):
    batches = Batches(pack, 12, 1, 3, 0)
    first, again, other = batches(2, 0.5), batches(2, 0.5), batches(3, 0.5)
    assert torch.equal(first.pixels, again.pixels) and first.captions == again.captions
    assert not torch.equal(first.pixels, other.pixels)
    true = first.truth()
    assert true.shape == (12, len(first.captions)) and true.any(1).all() and true.any(0).all()
    for i, j in zip(*np.nonzero(true.numpy())):
        assert first.names[i] == first.caption_names[j]
        assert int(first.caption_colours[j]) in (0, int(first.colours[i]))


def test_weights_of_names(pack):
    weights = name_weights(pack, 1)
    assert weights.sum() == pytest.approx(1) and weights[0] == pytest.approx(12 * weights[3])
    in_suite = np.arange(len(NAMES)) == 0
    few = Pack(pack.masks, pack.colours, NAMES, pack.said, np.minimum(np.arange(40), 3), pack.alias, in_suite)
    assert (name_weights(few, 2)[:3] > 0).tolist() == [True, False, False]  # one picture each; the suite's class stays


def test_captions_name_the_picture_and_the_colour_that_they_state():
    rng = np.random.default_rng(0)
    names, said, colours = ["cat"] * 200, ["kitten"] * 200, np.full(200, 1 + list(COLOURS).index("blue"))
    texts, stated = caption_batch(names, said, colours, rng)
    assert all(("blue" in text) == bool(s) for text, s in zip(texts, stated))
    assert all(("cat" in text) != ("kitten" in text) for text in texts) and 0 < (stated > 0).sum() < 80
    assert not caption_batch(names, said, np.zeros(200, int), rng)[1].any()


def test_still_pictures_are_black_on_white():
    alpha = torch.zeros(2, 1, 64, 64)
    alpha[:, :, 20:40, 20:40] = 1
    free = torch.tensor([False, True])
    generator = torch.Generator().manual_seed(0)
    pixels, colours = compose(alpha, torch.zeros(2, 3, 64, 64), torch.zeros(2).bool(), free, generator)
    low, high = pixels[0].amin((1, 2)), pixels[0].amax((1, 2))
    assert (pixels[0, :, 20:40, 20:40] == low[:, None, None]).all() and (pixels[0, :, :20] == high[:, None, None]).all()
    assert colours[0] == 0 and 1 <= colours[1] <= len(COLOURS)


def test_no_pictures_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m datasets.mini.build"):
        read_pack(tmp_path)

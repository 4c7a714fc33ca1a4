"""Tip-Adapter-F: its golden, its formula in loops, the choice on validation images, and other classes."""

import json

import pytest
import torch
import torch.nn.functional as F
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from prompting.methods import tipadapterf
from tests.golden import recipe
from tests.reference.methods import NAMES, build, draw_images, tiny_vit, train_on_four
from tests.trainers.conftest import read_golden


@pytest.fixture
def golden_run(golden_clip, monkeypatch):
    golden = read_golden("tipadapterf")
    monkeypatch.setattr(tipadapterf, "templates_for", lambda dataset: tuple(golden["templates"]))
    config, defaults = golden["config"], tipadapterf.TipAdapterFOptions.defaults()
    words = [
        word
        for key in ("init_beta", "init_alpha", "augment_epoch")
        for word in (key.upper(), type(defaults[key])(config[key]))
    ]
    model = build("TipAdapterF", *words, clip=golden_clip, classnames=golden["classnames"])
    model.adapter.resize(golden["cache_labels"], golden["classnames"])
    shape = len(golden["cache_labels"]), 3, 48, 48
    views = [torch.from_numpy(recipe.draw(golden["seed"], f"cache{v}", shape)) for v in range(config["augment_epoch"])]
    model.fill_cache(view.split(5) for view in views)
    images, labels = recipe.batch(golden["seed"], len(golden["labels"]), len(golden["classnames"]), 48)
    return golden, model, torch.from_numpy(images), torch.from_numpy(labels)


def test_golden(golden_run):
    golden, model, images, labels = golden_run
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == golden["shapes"]
    assert model.adapter.weight.sum().item() == pytest.approx(golden["keys_sum"], abs=1e-3)
    close = {"atol": 2e-3, "rtol": 0}
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.tensor(golden["logits"]), **close)
        clip = model.clip_logits(model.image_features(images))
        torch.testing.assert_close(clip, torch.tensor(golden["clip_logits"]), **close)
    optimizer = torch.optim.SGD(model.adapter.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    for step, expected in enumerate(golden["losses"]):
        loss, _ = model.training_loss(images, labels)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norm = model.adapter.weight.grad.norm().item()
            assert norm == pytest.approx(golden["grad_norms"]["weight"], rel=0.01)
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.tensor(golden["logits_after"]), **close)


def test_the_published_steps(golden_run, tmp_path):
    """AdamW and the rate of every step are those of a run, which the golden's model takes over."""
    golden, model, images, labels = golden_run
    trainer = run(tmp_path, "OPTIM.MAX_EPOCH", 4, "OPTIM.LR", golden["config"]["lr"], "OPTIM.WEIGHT_DECAY", 0.01)
    (group,) = trainer.optim.param_groups
    kept = {key: group[key] for key in ("betas", "eps", "weight_decay")}
    optimizer = torch.optim.AdamW(model.adapter.parameters(), lr=group["lr"], **kept)
    for expected in golden["losses_adamw"]:
        loss, _ = model.training_loss(images, labels)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        optimizer.param_groups[0]["lr"] = trainer.get_current_lr()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.optim.step()
        trainer.sched.step()


def run(folder, *words):
    return train_on_four("TipAdapterF", folder, "OPTIM.NAME", "adamw", *words)


def test_seven_sentences_of_imagenet():
    clip = tiny_vit()
    model = tipadapterf.TipAdapterF(clip, NAMES, dataset="ImageNet")
    assert model.tokens.ids.shape[:2] == (7, 3)
    features = F.normalize(model.text_encoder(model.tokens).prompt, dim=-1).mean(1)
    images = draw_images(clip)
    expected = 100 * model.image_features(images) @ F.normalize(features, dim=-1).T
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-5)  # without a cache


def test_the_search_in_loops():
    model = build("TipAdapterF", "SEARCH_SCALE", (5.0, 4.0), "SEARCH_STEP", (6, 4))
    stream = torch.Generator().manual_seed(2)
    model.adapter.resize([0, 1, 2, 0], NAMES)
    model.adapter.weight.data.copy_(F.normalize(torch.randn(4, 64, generator=stream), dim=-1))
    features = F.normalize(torch.randn(20, 64, generator=stream), dim=-1)
    labels = torch.randint(3, (20,), generator=stream)
    clip, best = model.clip_logits(features), (0.0, 0.0, -1.0)
    for beta in (0.1 + i * 4.9 / 6 for i in range(6)):
        for alpha in (0.1 + j * 3.9 / 4 for j in range(4)):
            cache = model.cache_logits(features @ model.adapter.weight.T, beta)
            accuracy = 100 * ((clip + alpha * cache).argmax(1) == labels).float().mean().item()
            best = (beta, alpha, accuracy) if accuracy > best[2] else best
    assert model.search(features, labels) == pytest.approx(best)
    assert (model.adapter.beta, model.adapter.alpha) == pytest.approx(best[:2])


@DATASET_REGISTRY.register()
class OnlyTest(DatasetBase):
    """Two images to train on, two to test on, none for validation; the second name differs if ROOT says so."""

    def __init__(self, cfg):
        names = NAMES if cfg.DATASET.SUBSAMPLE_CLASSES == "all" else [NAMES[1], "yacht"]
        data = [Datum(f"{cfg.DATASET.ROOT}/{i}.png", i % 2, 0, names[i % 2]) for i in range(4)]
        super().__init__(train_x=data[:2], test=data[2:])


@pytest.mark.slow
def test_a_run_chooses_on_validation_images(tmp_path, caplog):
    caplog.set_level("INFO")
    words = ("OPTIM.MAX_EPOCH", 3, "TEST.FINAL_MODEL", "best_val", "OPTIM.LR", 0.5, "AUGMENT_EPOCH", 2)
    trainer = run(tmp_path, *words)
    trainer.train()
    assert [set(trainer.test_results)] == [{"val", "test"}]
    assert "Building the cache: 2 augmentations of 2 images" in caplog.text
    assert "Search on 2 validation images" in caplog.text
    saved = torch.load(tmp_path / "out/adapter/model-best.pth.tar", weights_only=True)["state_dict"]
    extra = json.loads(bytes(saved["_extra_state"].tolist()))
    assert (extra["labels"], extra["classnames"]) == ([0, 1], NAMES[:2])
    assert (extra["beta"], extra["alpha"]) == (trainer.model.adapter.beta, trainer.model.adapter.alpha)
    assert saved["weight"].shape == (2, 64)
    images = draw_images(tiny_vit())
    other = run(tmp_path, *words)
    other.load_model(str(tmp_path / "out"))
    torch.testing.assert_close(other.model(images), trainer.model(images))
    caplog.clear()
    run(tmp_path, *words).train()  # a finished run: the cache is read, not built again
    assert "Building the cache" not in caplog.text


@pytest.mark.slow
def test_nothing_is_chosen_on_test_images(tmp_path, caplog):
    """Without validation images: the last epoch, beta and alpha as given, and no evaluation before the end."""
    caplog.set_level("INFO")
    train_on_four("TipAdapterF", tmp_path)  # writes the images
    words = ("DATASET.NAME", "OnlyTest", "OPTIM.MAX_EPOCH", 2, "TEST.FINAL_MODEL", "best_val", "INIT_ALPHA", 1.17)
    trainer = run(tmp_path, *words)
    trainer.train()
    assert set(trainer.test_results) == {"test"} and caplog.text.count("Evaluate on the *test* set") == 1
    assert "no validation images: the last epoch" in caplog.text
    assert (trainer.model.adapter.beta, trainer.model.adapter.alpha) == (1.0, 1.17)
    last, best = (
        torch.load(tmp_path / f"out/adapter/{name}", weights_only=True)["state_dict"]["weight"]
        for name in ("model.pth.tar-2", "model-best.pth.tar")
    )
    assert torch.equal(last, best) and torch.equal(trainer.model.adapter.weight, last)

    other = run(tmp_path, *words, "DATASET.SUBSAMPLE_CLASSES", "new")
    other.load_model(str(tmp_path / "out"))
    images, cache = draw_images(tiny_vit()), trainer.model.adapter
    features = other.model.image_features(images)
    expected = other.model.clip_logits(features)
    known = 1.17 * torch.exp(features @ cache.weight[1] - 1)  # of the class that both have
    torch.testing.assert_close(other.model(images), expected + torch.stack([known, torch.zeros(2)], 1))

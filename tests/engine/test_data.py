"""Few-shot draws, samplers, loaders and transforms."""

import os
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from dassl.data import DataManager, DatasetWrapper, build_data_loader
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import RandomClassSampler, RandomDomainSampler, SeqDomainSampler, build_sampler
from dassl.data.transforms import AVAI_CHOICES, build_transform
from dassl.data.transforms.augment import Cutout, Random2DTranslation
from dassl.utils import read_image, set_random_seed


def item(label, domain=0, name=""):
    return SimpleNamespace(label=label, domain=domain, classname=name or str(label), impath="")


def test_few_shots_are_pythons_global_sample_and_class_names_those_of_the_first_image():
    items = [item(2, name=f"number {i}") for i in range(20)] + [item(0, name="a")]
    data = DatasetBase(train_x=items)
    assert (data.lab2cname, data.classnames, data.num_classes) == ({2: "number 0", 0: "a"}, ["a", "number 0"], 3)
    set_random_seed(1)
    drawn = data.generate_fewshot_dataset(items, num_shots=5)
    assert [items.index(x) for x in drawn] == [4, 18, 2, 8, 3, 20]  # a smaller class gives all its images
    repeated = data.generate_fewshot_dataset(items, num_shots=3, repeat=True)
    assert [x.label for x in repeated] == [2, 2, 2, 0, 0, 0]
    assert data.generate_fewshot_dataset(items, num_shots=-1) is items


def test_refusals(tmp_path):
    data = DatasetBase(train_x=[item(0)])
    data.domains = ["art", "photo"]
    for call, error, text in (
        (lambda: DatasetBase(), ValueError, "DatasetBase has no training images"),
        (lambda: Datum(impath="nowhere.jpg", label=3), FileNotFoundError, "nowhere.jpg"),
        (lambda: Datum(impath=tmp_path), TypeError, "Path"),
        (lambda: data.check_input_domains(["art"], ["sketch"]), ValueError, r"'photo'\], but got \[sketch\]"),
        (lambda: data.check_input_domains(["art"], []), ValueError, "target_domains"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_datum_pickles_as_released_files_hold_it(tiny_root):
    datum = Datum(os.path.join(tiny_root, "apple_0.png"), 1, 2, "apple")
    assert vars(datum) == {"_impath": datum.impath, "_label": 1, "_domain": 2, "_classname": "apple"}
    datum._impath = "gone.png"  # a file list stays readable where the images are elsewhere
    assert pickle.loads(pickle.dumps(datum)).impath == "gone.png"
    assert Datum.__module__ == "dassl.data.datasets.base_dataset"


def test_class_sampler_fills_batches_with_whole_classes():
    source = [item(label) for label in [0] * 5 + [1] * 4 + [2] * 1 + [3] * 7]
    random.seed(0)
    sampler = RandomClassSampler(source, batch_size=4, n_ins=2)
    random.seed(0)
    order = list(sampler)
    assert len(order) == len(sampler) and len(order) % 4 == 0  # the length is that of the first draw; others may differ
    for start in range(0, len(order), 2):
        assert len({source[i].label for i in order[start : start + 2]}) == 1
    for start in range(0, len(order), 4):
        assert len({source[i].label for i in order[start : start + 4]}) == 2
    enough = [i for i in order if source[i].label != 2]
    assert len(enough) == len(set(enough))  # only a class with too few images repeats one


@pytest.mark.parametrize("make", [lambda s: RandomDomainSampler(s, 6, 2), lambda s: SeqDomainSampler(s, 6)])
def test_domain_samplers_share_batches_equally(make):
    source = [item(0, domain) for domain in [1, 0] * 9 + [1] * 5]
    sampler = make(source)
    order = list(sampler)
    assert len(order) == len(sampler) == len(set(order)) == 18
    for start in range(0, 18, 6):
        domains = [source[i].domain for i in order[start : start + 6]]
        assert domains[:3] in ([0] * 3, [1] * 3) and sum(domains) == 3
    if type(sampler) is SeqDomainSampler:
        assert all(source[order[start]].domain == 0 for start in range(0, 18, 6))


def test_sampler_errors():
    source = [item(0, 0), item(0, 1), item(1, 0)]
    for build, text in (
        (lambda: RandomDomainSampler(source, 3, 2), "equal parts"),
        (lambda: RandomDomainSampler(source, 4, 2), "only 1"),
        (lambda: RandomClassSampler(source, 2, 4), "n_ins=4"),
        (lambda: RandomClassSampler(source, 6, 2), "needs 3 classes"),
        (lambda: build_sampler("RandomSampel", data_source=source), r"do you mean \[RandomSampler\]"),
    ):
        with pytest.raises(ValueError, match=text):
            build()


def test_data_manager(make_cfg, capsys):
    manager = DataManager(make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", 4))
    assert (manager.num_classes, manager.lab2cname) == (3, {0: "apple", 1: "bell", 2: "cloud"})
    assert (len(manager.train_loader_x), len(manager.val_loader), manager.train_loader_u) == (4, 1, None)  # 18 // 4
    batch = next(iter(manager.test_loader))
    assert set(batch) == {"label", "domain", "impath", "index", "img"} and isinstance(batch["impath"], list)
    assert batch["label"].tolist() == [0, 0, 1, 1, 2, 2]
    pixels = np.asarray(read_image(batch["impath"][0]), dtype=np.float32) / 255
    np.testing.assert_allclose(batch["img"][0].permute(1, 2, 0).numpy(), pixels, atol=1e-6)
    table = capsys.readouterr().out
    for row in ("Dataset    TinySet", "# classes  3", "# train_x  18", "# val      6", "# test     6"):
        assert row in table
    assert len(DataManager(make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", 32)).train_loader_x) == 1  # of 18 images
    with pytest.raises(ValueError, match="test split of TinySet is empty"):
        build_data_loader(make_cfg(), data_source=[], is_train=False)


def test_views_and_lists_of_transforms(make_cfg):
    cfg = make_cfg("DATALOADER.K_TRANSFORMS", 3, "DATALOADER.RETURN_IMG0", True)
    source = DataManager(cfg).dataset.train_x
    first = DatasetWrapper(cfg, source, T.ToTensor(), is_train=True)[0]
    assert len(first["img"]) == 3 and torch.equal(first["img0"], first["img"][1])
    second = DatasetWrapper(cfg, source, [T.ToTensor(), np.asarray], is_train=False)[1]
    assert isinstance(second["img"], torch.Tensor) and isinstance(second["img2"], np.ndarray)
    with pytest.raises(ValueError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, source, None, is_train=True)


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_every_transform_keeps_size_and_range(make_cfg):
    image = read_image(os.path.join(make_cfg().DATASET.ROOT, "bell_3.png")).resize((20, 14))
    for name in AVAI_CHOICES:
        for is_train in (True, False):
            words = ["INPUT.TRANSFORMS", (name,), "INPUT.GB_K", 3, "INPUT.CUTOUT_LEN", 4]
            result = build_transform(make_cfg(*words), is_train=is_train)(image)
            assert result.shape == (3, 8, 8) and torch.isfinite(result).all(), name
    normed = build_transform(make_cfg("INPUT.TRANSFORMS", ("instance_norm",)))(image)
    torch.testing.assert_close(torch.stack(torch.std_mean(normed, (1, 2))), torch.tensor([[1.0] * 3, [0.0] * 3]))
    assert 4 <= (Cutout(1, 4)(torch.ones(3, 8, 8))[0] == 0).sum() <= 16  # one square, cut off at the edges


def test_plain_training_and_test(make_cfg):
    assert names(build_transform(make_cfg("INPUT.TRANSFORMS", ()))) == ["Resize", "ToTensor"]
    orders = [names(build_transform(make_cfg("INPUT.TRANSFORMS", tuple(AVAI_CHOICES[::step])))) for step in (1, -1)]
    assert orders[0] == orders[1] and len(orders[0]) == 18
    cfg = make_cfg("INPUT.TRANSFORMS", ("random_resized_crop", "normalize"), "INPUT.SIZE", (8, 12))
    test = build_transform(cfg, is_train=False)
    assert names(test) == ["Resize", "CenterCrop", "ToTensor", "Normalize"]
    assert test.transforms[0].size == 12
    assert build_transform(make_cfg("INPUT.NO_TRANSFORM", True)) is None
    with pytest.raises(ValueError, match=r"do you mean \[random_flip\]"):
        build_transform(make_cfg(), choices=["randomflip"])
    with pytest.raises(ValueError, match=r"do you mean \[bicubic\]"):
        build_transform(make_cfg("INPUT.INTERPOLATION", "bicubik"))


def test_translation_cuts_a_window_of_the_enlarged_image(make_cfg):
    image = read_image(os.path.join(make_cfg().DATASET.ROOT, "bell_3.png"))
    large = np.asarray(T.functional.resize(image, [18, 18]))
    windows = [large[y : y + 16, x : x + 16] for y in range(3) for x in range(3)]
    moved = [np.asarray(Random2DTranslation(16, 16, p=1.0)(image)) for _ in range(20)]
    assert len({next(i for i, w in enumerate(windows) if np.array_equal(w, m)) for m in moved}) > 1
    assert np.array_equal(np.asarray(Random2DTranslation(16, 16, p=0.0)(image)), T.functional.resize(image, [16, 16]))

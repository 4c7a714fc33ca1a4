"""Persistent workers and cached images give what new workers read from the files."""

import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from dassl.data import DataManager, build_data_loader
from dassl.data.loader import ImageCache, PersistentLoader, SharedBytes
from dassl.utils import read_image, set_random_seed
from PIL import Image

RANDOM = ("random_flip", "random_resized_crop", "cutout", "gaussian_noise")  # Python's, numpy's and torch's streams


def epochs(make_cfg, number, stop=99, **options):
    """The images of some epochs, each ended after ``stop`` batches, and numbers drawn in the main process after."""
    cfg = make_cfg("INPUT.TRANSFORMS", RANDOM, "INPUT.CUTOUT_LEN", 4, "DATALOADER.NUM_WORKERS", options.pop("workers"))
    source, tfm = DataManager(cfg).dataset.train_x, DataManager(cfg).train_loader_x.dataset.transform
    loader = build_data_loader(cfg, "RandomSampler", source, 4, tfm=tfm, **options)
    set_random_seed(3)
    seen = []
    for _ in range(number):
        for i, batch in enumerate(loader):
            if i == stop:
                break
            seen.append((batch["index"].tolist(), batch["img"]))
    return loader, seen, (torch.rand(3).tolist(), random.random(), np.random.rand())


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "workers"), [(99, 2), (1, 2), (99, 0)])
def test_persistent_workers_draw_what_new_ones_draw(make_cfg, stop, workers):
    plain, wanted, state = epochs(make_cfg, 3, stop, workers=workers)
    lasting, seen, after = epochs(make_cfg, 3, stop, workers=workers, persistent=True, memory=SharedBytes(2**20))
    assert type(plain) is torch.utils.data.DataLoader and isinstance(lasting, PersistentLoader) == bool(workers)
    assert len(seen) == 3 * min(stop, 4) and state == after
    assert all(i == j and torch.equal(a, b) for (i, a), (j, b) in zip(seen, wanted, strict=True))
    assert not torch.equal(seen[0][1], seen[-1][1])


@pytest.mark.slow
def test_workers_share_the_cache(make_cfg, tiny_root, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_root, folder)
    words = ["DATASET.ROOT", str(folder), "DATALOADER.NUM_WORKERS", 2, "INPUT.TRANSFORMS", ()]
    manager = DataManager(make_cfg(*words, "TEST.FINAL_MODEL", "best_val"))
    first = {i: img for b in manager.train_loader_x for i, img in zip(b["index"].tolist(), b["img"])}
    shutil.rmtree(folder)
    for _ in range(3):  # images go to other workers each time: without sharing, some would read the file
        again = {i: img for b in manager.train_loader_x for i, img in zip(b["index"].tolist(), b["img"])}
        assert len(again) == 18 and all(torch.equal(again[i], first[i]) for i in first)
    with pytest.raises(FileNotFoundError):
        manager.test_loader.dataset[0]  # read once: not cached


def test_another_dataset_wrapper_keeps_torchs_loader(make_cfg):
    def wrapper(cfg, source, transform=None, is_train=False):
        return list(range(len(source)))

    manager = DataManager(make_cfg("DATALOADER.NUM_WORKERS", 1), dataset_wrapper=wrapper)
    assert type(manager.train_loader_x) is torch.utils.data.DataLoader
    assert sorted(i for batch in manager.train_loader_x for i in batch.tolist()) == list(range(18))


def test_images_are_cached_whole_and_within_the_budget(tmp_path):
    stream = np.random.RandomState(0)
    images = {str(tmp_path / f"{i}.png"): stream.randint(0, 255, (5 + i, 9 - i, 3), dtype=np.uint8) for i in range(4)}
    for path, pixels in images.items():
        Image.fromarray(pixels).save(path)
    sizes = [pixels.size for pixels in images.values()]
    cache = ImageCache(4, SharedBytes(sum(sizes[:2]) + sizes[3] - 1))
    for _ in range(2):
        for i, (path, pixels) in enumerate(images.items()):
            image = cache.read(i, path)
            assert (image.mode, image.size) == ("RGB", read_image(path).size)
            assert np.array_equal(np.asarray(image), pixels)
    for i in (0, 1):  # cached: the file is not read
        cache.read(i, "gone.png")
    for i in (2, 3):
        with pytest.raises(FileNotFoundError, match="gone.png"):
            cache.read(i, "gone.png")


def test_a_pickled_copy_reads_files(make_cfg):
    dataset = DataManager(make_cfg()).train_loader_x.dataset
    copied = pickle.loads(pickle.dumps(dataset))
    assert dataset.cache is not None and copied.cache is None
    assert copied[0]["impath"] == dataset[0]["impath"] and copied[0]["img"].shape == dataset[0]["img"].shape


def test_mistakes_get_one_line(make_cfg):
    for megabytes in (-1, 2**42):
        with pytest.raises(ValueError, match=f"DATALOADER.CACHE_MB: {megabytes} MiB cannot be allocated"):
            DataManager(make_cfg("DATALOADER.CACHE_MB", megabytes))
    assert DataManager(make_cfg("DATALOADER.CACHE_MB", 0)).train_loader_x.dataset.cache is None

"""Data loaders from a config."""

import logging
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from dassl.utils import distributed, read_image
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from .datasets import Datum, build_dataset
from .loader import ImageCache, PersistentLoader, SharedBytes, check_workers, end_quietly, seed_worker
from .samplers import build_sampler

logger = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    """Return what plugins import from here, but torchvision (which takes seconds to import) is needed for."""
    if name not in ("INTERPOLATION_MODES", "build_transform"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import transforms

    return getattr(transforms, name)


class DatasetWrapper(Dataset):
    """Reads and transforms images on demand.

    An item is a dictionary with ``img`` (a list of views if ``DATALOADER.K_TRANSFORMS`` > 1 in training; also ``img2``,
    ``img3``, ... for further transforms), ``label``, ``domain``, ``impath``, ``index``, and ``img0`` (the image without
    augmentation) if ``DATALOADER.RETURN_IMG0``. Without a transform, ``img`` is the PIL image.

    Attributes:
        cache: cache of decoded images, or None.
        turn: whether images are turned as their EXIF data say.

    Raises:
        ValueError: several views need a transform.
    """

    cache: ImageCache | None = None
    _epoch: tuple[int, int] | None = None

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        self.turn = bool(cfg.INPUT.EXIF)
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply")
        from .transforms import build_plain_transform  # here, because torchvision takes seconds to import

        self.to_tensor = build_plain_transform(cfg)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitems__(self, indices: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the items of a batch; with (index, epoch) pairs, this worker is reseeded when the epoch changes."""
        if isinstance(indices[0], tuple):
            indices, epochs = zip(*indices)
            if epochs[0] != self._epoch:
                self._epoch = epochs[0]
                seed_worker(self._epoch[1])
        return [self[int(i)] for i in indices]

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        place = (item.impath, self.turn)
        image = read_image(*place) if self.cache is None else self.cache.read(idx, *place)
        if self.transform is None:
            output["img"] = image
        else:
            several = isinstance(self.transform, (list, tuple))
            transforms: Any = self.transform if several else [self.transform]
            try:
                all_views = [[transform(image) for _ in range(self.k_tfm)] for transform in transforms]
            except Exception as error:  # such as a crop that is larger than the image
                size, reason = f"{image.width} x {image.height}", " ".join(str(error).split())
                raise ValueError(f"The transform of {item.impath} ({size}) fails: {reason:.300}") from error
            for i, views in enumerate(all_views, 1):
                output["img" if i == 1 else f"img{i}"] = views[0] if len(views) == 1 else views
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Any = None,
    memory: SharedBytes | None = None,
    persistent: bool = False,
) -> DataLoader:
    """Return a loader of batches.

    In training an incomplete last batch is dropped, unless it is the only one. Loaders draw from torch's global random
    stream; ``memory`` and ``persistent`` save time and do not change what is drawn. With several processes
    (:mod:`dassl.utils.distributed`), each loads all batches in training; in evaluation, every ``world_size``-th batch.

    Args:
        cfg: config; reads ``DATALOADER`` and ``USE_CUDA``.
        sampler_type, n_domain, n_ins: see :func:`dassl.data.samplers.build_sampler`.
        data_source: images, at least one.
        tfm: transform(s) for :class:`DatasetWrapper`, which ``dataset_wrapper`` replaces.
        memory: buffer for decoded images; None caches none. It and ``persistent`` need a :class:`DatasetWrapper`.
        persistent: keep the worker processes from epoch to epoch.

    Raises:
        ValueError: ``data_source`` is empty, or no batch can be drawn.
    """
    if not data_source:
        kind, name = "training" if is_train else "validation or test", cfg.DATASET.NAME or "the data set"
        raise ValueError(f"A {kind} split of {name} is empty: check DATASET.ROOT ({cfg.DATASET.ROOT!r})")
    workers = cfg.DATALOADER.NUM_WORKERS
    sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
    shared = not is_train and distributed.size() > 1
    dataset = (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train)
    ours = isinstance(dataset, DatasetWrapper)
    if ours and tfm is not None:
        height, width = cfg.INPUT.SIZE
        views = dataset.k_tfm + dataset.return_img0
        size = min(batch_size, len(data_source)) * views * 3 * height * width * 4
        check_workers(workers, math.ceil(len(data_source) / batch_size), size)
    if ours and memory is not None:
        dataset.cache = ImageCache(len(data_source), memory)
    loader = (PersistentLoader if ours and persistent and workers else DataLoader)(
        dataset,
        batch_size=batch_size,
        sampler=distributed.BatchShare(sampler, batch_size) if shared else sampler,
        num_workers=workers,
        worker_init_fn=end_quietly,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0 and not shared:
        raise ValueError(f"{sampler_type} draws no batch of {batch_size} from {len(data_source)} images")
    return loader


def image_memory(cfg: CfgNode) -> SharedBytes | None:
    """Return a buffer of ``DATALOADER.CACHE_MB`` MiB for decoded images, or None if nothing is read twice."""
    megabytes = cfg.DATALOADER.CACHE_MB
    if not megabytes or cfg.OPTIM.MAX_EPOCH <= 1:
        return None
    try:
        return SharedBytes(megabytes * 2**20 // distributed.local_size(), processes=cfg.DATALOADER.NUM_WORKERS > 0)
    except (OSError, OverflowError) as error:
        problem = f"{megabytes} MiB cannot be allocated ({error}); 0 disables the cache"
        raise ValueError(f"DATALOADER.CACHE_MB: {problem}") from None


class DataManager:
    """The data set of a config, as ``dataset``, and loaders of its splits.

    ``train_loader_x`` gives labelled training batches, ``train_loader_u`` unlabelled ones (or is None), ``val_loader``
    validation batches (or is None), ``test_loader`` test batches. The other arguments replace the transforms of the
    config and :class:`DatasetWrapper`.
    """

    def __init__(
        self, cfg: CfgNode, custom_tfm_train: Any = None, custom_tfm_test: Any = None, dataset_wrapper: Any = None
    ) -> None:
        from .transforms import build_transform

        dataset = self.dataset = build_dataset(cfg)
        transforms = {True: custom_tfm_train, False: custom_tfm_test}  # by is_train
        for is_train, use in ((True, "training"), (False, "testing")):
            if transforms[is_train] is None:
                transforms[is_train] = build_transform(cfg, is_train)
            else:
                logger.info("* Using custom transform for %s", use)
        repeated = {"memory": image_memory(cfg), "persistent": cfg.OPTIM.MAX_EPOCH > 1}

        def loader(source: Any, node: CfgNode, is_train: bool, each_epoch: bool) -> DataLoader:
            domains = {"n_domain": node.N_DOMAIN, "n_ins": node.N_INS} if is_train else {}
            how = {"dataset_wrapper": dataset_wrapper, **domains, **(repeated if each_epoch else {})}
            tfm = transforms[is_train]
            made = build_data_loader(cfg, node.SAMPLER, source, node.BATCH_SIZE, tfm=tfm, is_train=is_train, **how)
            if isinstance(made.dataset, DatasetWrapper) and cfg.INPUT.EXIF is None:
                made.dataset.turn = getattr(dataset, "turn_images", False)
            return made

        nodes, validated = cfg.DATALOADER, cfg.TEST.FINAL_MODEL == "best_val"
        unlabelled = nodes.TRAIN_X if nodes.TRAIN_U.SAME_AS_X else nodes.TRAIN_U
        self.train_loader_x = loader(dataset.train_x, nodes.TRAIN_X, True, True)
        self.train_loader_u = loader(dataset.train_u, unlabelled, True, True) if dataset.train_u else None
        self.val_loader = loader(dataset.val, nodes.TEST, False, validated) if dataset.val else None
        self.test_loader = loader(dataset.test, nodes.TEST, False, validated and not dataset.val)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    num_classes = property(attrgetter("dataset.num_classes"), doc="Number of classes.")
    num_source_domains = property(attrgetter("_num_source_domains"), doc="Number of ``DATASET.SOURCE_DOMAINS``.")
    lab2cname = property(attrgetter("dataset.lab2cname"), doc="Label -> class name.")

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Log a table of the data set's splits and their sizes."""
        from tabulate import tabulate

        node = cfg.DATASET
        rows = [("Dataset", node.NAME), ("Source", node.SOURCE_DOMAINS), ("Target", node.TARGET_DOMAINS)]
        rows = [row for row in rows if row[1]] + [("# classes", f"{self.num_classes:,}")]
        for part in ("train_x", "train_u", "val", "test"):
            images = getattr(self.dataset, part)
            rows += [(f"# {part}", f"{len(images):,}")] if images else []
        logger.info(tabulate(rows))

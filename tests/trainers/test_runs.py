"""From the same random state a whole run goes through the family's images and learning rates (tests/golden/runs)."""

import pytest
import torch
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

import train
from tests.reference.methods import METHODS
from tests.reference.run_logs import RUNS as GOLDEN_RUNS
from tests.reference.run_logs import fixed_lines, golden_root

# The settings of each run in tests/golden/README.md: YAML, classes, images a batch.
RUNS = {
    "coop": ("CoOp/vit_b16", "all", 8),
    "cocoop": ("CoCoOp/vit_b16_c4_ep10_batch1_ctxv1", "all", 4),
    "maple": ("MaPLe/vit_b16_c2_ep5_batch4_2ctx", "all", 8),
    "ivlp": ("IVLP/vit_b16_c2_ep5_batch4_2+2ctx", "base", 8),
    "vpt": ("VPT/vit_b16_c2_ep5_batch4_4", "all", 8),
    "align": ("MMP/vit_b16_c2_ep5_batch4_2ctx", "base", 8),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return golden_root(tmp_path_factory)


def same_from_every_start(text):
    """Epochs, batches, learning rates and the number of images tested: neither losses nor accuracies."""
    return [line for line in fixed_lines(text, "loss", "acc") if line.startswith(("epoch", "* total"))]


def images_by_hand(items, batch, size, epochs):
    """Paths and images of all batches: torch's loader and torchvision's transforms, draw by draw."""
    change = T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_()  # the seed of worker processes, drawn with or without them
        stream = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        order = torch.randperm(len(items), generator=stream).tolist()
        for start in range(0, len(items) - batch + 1, batch):
            paths = [items[i].impath for i in order[start : start + batch]]
            yield paths, torch.stack([change(Image.open(path).convert("RGB")) for path in paths])


def publish(trainer, path):
    """Write a file as the family does: random learned tensors, frozen weights, embeddings of other class names."""
    part = trainer.model.get_submodule(trainer.saved_part)
    learned = {name: 0.1 * torch.randn_like(tensor) for name, tensor in part.state_dict().items()}
    whole = not trainer.saved_part
    beside = {"prompt_learner.token_prefix" if whole else "token_prefix": torch.zeros(7, 1, 4)}
    if whole:  # stored in half precision
        learned = {name: tensor.half() for name, tensor in learned.items()}
        beside["image_encoder.conv1.weight"] = torch.zeros(3)
    schedule = {"successor": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 1)}
    torch.save({"state_dict": {**beside, **learned}, "epoch": 5, "scheduler": schedule}, path)
    return {name: tensor.float() for name, tensor in learned.items()}


def start(name, root, clip_file, folder, *more):
    """A trainer of one of ``RUNS``, and the list of paths and images that it will train on."""
    config, classes, batch = RUNS[name]
    method = config.split("/")[0]
    node = METHODS[method].node
    flags = ["--root", root, "--seed", "1", "--trainer", method, "--output-dir", str(folder), "--backbone", clip_file]
    flags += ["--dataset-config-file", "configs/datasets/eurosat.yaml"]
    flags += ["--config-file", f"configs/trainers/{config}.yaml"]
    flags += ["INPUT.SIZE", "(48, 48)", "DATASET.NUM_SHOTS", "4", "DATASET.SUBSAMPLE_CLASSES", classes]
    flags += ["USE_CUDA", "False", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", str(batch)]
    flags += ["OPTIM.MAX_EPOCH", "3", f"TRAINER.{node}.PREC", "fp32", *more]
    for key in METHODS[method].defaults():
        flags += [f"TRAINER.{node}.{key}", "3"] if "DEPTH" in key else []  # the golden CLIP has three blocks
    cfg = train.setup_cfg(train.parse_args(flags))
    set_random_seed(cfg.SEED)
    trainer, seen = build_trainer(cfg), []
    parse = trainer.parse_batch_train
    trainer.parse_batch_train = lambda batch: seen.append((batch["impath"], batch["img"].clone())) or parse(batch)
    return trainer, seen


# The runs of one method each differ in their YAML file alone: the others are run by `make test-long`.
NAMES = ["coop", "maple", "align", *(pytest.param(name, marks=pytest.mark.long) for name in ("cocoop", "ivlp", "vpt"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_images_and_learning_rates_from_a_checkpoint(name, root, golden_clip_file, tmp_path):
    given = publish(start(name, root, golden_clip_file, tmp_path / "other")[0], tmp_path / "reference.pth.tar-5")
    with setup_logger(str(tmp_path)):
        more = ("MODEL.INIT_WEIGHTS", str(tmp_path / "reference.pth.tar-5"))
        trainer, seen = start(name, root, golden_clip_file, tmp_path, *more)
        begun = trainer.model.get_submodule(trainer.saved_part).state_dict()
        assert set(begun) == set(given) and all(torch.equal(begun[key], given[key]) for key in given)
        torch.manual_seed(11)
        trainer.train()

    golden = (GOLDEN_RUNS / f"{name}.log").read_text()
    assert same_from_every_start((tmp_path / "log.txt").read_text()) == same_from_every_start(golden)

    torch.manual_seed(11)
    expected = list(images_by_hand(trainer.dm.dataset.train_x, RUNS[name][-1], 48, epochs=3))
    assert [paths for paths, _ in seen] == [paths for paths, _ in expected]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(seen, expected))

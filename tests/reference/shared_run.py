"""A program for one process or for several started by torchrun; its results must not depend on their number.

python -m tests.reference.shared_run ROOT OUTPUT
"""

import os
import sys

import torch
import torch.distributed as dist
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import distributed, set_random_seed, setup_logger

from tests.reference.tiny import TinyTrainer, tiny_cfg

END_OF_FIRST = "end of the first run"


@TRAINER_REGISTRY.register()
class SharedTrainer(TinyTrainer):
    """Reports also the number of images in this process."""

    def forward_backward(self, batch):
        return {**super().forward_backward(batch), "images": len(batch["label"])}


def trainer_for(root, output, *words, seed=4):
    """A trainer with batches of 5, one worker process, random crops, and three test batches."""
    cfg = tiny_cfg(
        root, output, "TRAINER.NAME", "SharedTrainer", "INPUT.TRANSFORMS", ("random_resized_crop", "random_flip"),
        "DATALOADER.NUM_WORKERS", 1, "DATALOADER.TRAIN_X.BATCH_SIZE", 5, "DATALOADER.TEST.BATCH_SIZE", 2,
        "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, "TRAIN.PRINT_FREQ", 1,
        "TEST.FINAL_MODEL", "best_val", "TEST.PER_CLASS_RESULT", True, *words,
    )  # fmt: skip
    if seed is None:
        torch.seed()
    else:
        set_random_seed(seed)
    return build_trainer(cfg)


def weights_everywhere(trainer):
    """The weights of this process, which equal those of every other."""
    mine = [p.detach().clone() for p in trainer.model.parameters()]
    everyones = [mine]
    if dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    assert all(torch.equal(a, b) for other in everyones for a, b in zip(mine, other))
    return mine


def message(kind, function):
    """The message of the error of this kind that a function raises."""
    try:
        function()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def main(root, output):
    setup_logger(output)
    result = {}

    trainer = trainer_for(root, output)
    trainer.train()
    result["accuracy"] = trainer.output_test()
    result["weights"], result["results"] = weights_everywhere(trainer), trainer.test_results
    print(END_OF_FIRST)
    result["paths"] = [os.path.basename(path) for path in trainer.evaluated_paths]

    parts = os.path.join(output, "parts")
    broken = trainer_for(root, parts)
    broken.stop_at = 2
    message(KeyboardInterrupt, broken.train)
    resumed = trainer_for(root, parts, seed=99)
    resumed.train()
    assert all(torch.equal(a, b) for a, b in zip(weights_everywhere(resumed), result["weights"]))

    bad = trainer_for(root, os.path.join(output, "bad"))
    bad.bad_image = "bell_3"
    result["anomaly"] = message(FloatingPointError, bad.train)

    unseeded = trainer_for(root, os.path.join(output, "unseeded"), "DATALOADER.NUM_WORKERS", 0, seed=None)
    unseeded.train()
    weights_everywhere(unseeded)

    single = trainer_for(root, os.path.join(output, "single"), "DATALOADER.TRAIN_X.BATCH_SIZE", 1)
    if dist.is_initialized():
        result["too small"] = message(ValueError, single.train)
        missing = os.path.join(root, "nowhere")
        if distributed.is_main():
            result["missing"] = message(FileNotFoundError, lambda: trainer_for(missing, output))
        else:  # the main process reports the error
            message(SystemExit, lambda: trainer_for(missing, output))
    if distributed.is_main():
        torch.save(result, os.path.join(output, "result.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""2,000 training steps and 200 evaluations: memory, file handles, threads and processes stay as they were."""

import gc
import logging
import multiprocessing
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from dassl.engine import build_trainer

from tests.reference.clip_states import vit_state
from tests.reference.configs import default_cfg
from tests.reference.layouts import class_folders

STEPS, EVALUATIONS = 2000, 200


def held():
    """Resident bytes, open files, threads and child processes of this process."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/fd")), threading.active_count(), len(multiprocessing.active_children())


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method, workers", [("ALIGN", 1), ("CoOp", 0)])
def test_soak(tmp_path, monkeypatch, method, workers):
    for part, count in (("train", 20), ("val", 2), ("test", 2)):
        class_folders(tmp_path / "photos" / part, ["cat", "dog"], count)
    torch.save(vit_state(patch=16, grid=2, vision_layers=2, text_layers=2), tmp_path / "tiny.pt")
    cfg = default_cfg(
        *["DATASET.NAME", "Folder", "DATASET.ROOT", str(tmp_path / "photos"), "OUTPUT_DIR", str(tmp_path / "run")],
        *["TRAINER.NAME", method, "MODEL.BACKBONE.NAME", str(tmp_path / "tiny.pt"), "USE_CUDA", False],
        *["INPUT.SIZE", (32, 32), "DATALOADER.NUM_WORKERS", workers, "DATALOADER.TRAIN_X.BATCH_SIZE", 4],
        *["OPTIM.MAX_EPOCH", EVALUATIONS, "OPTIM.LR", 1e-4, "TEST.FINAL_MODEL", "best_val", "TRAIN.PRINT_FREQ", 10],
        *["TRAINER.ALIGN.TEXT_PROMPT_DEPTH", 2, "TRAINER.ALIGN.VISION_PROMPT_DEPTH", 2],
        *["TRAINER.ALIGN.TEXT_PROMPT_NUMBER", 2, "TRAINER.ALIGN.VISION_PROMPT_NUMBER", 2],
    )
    logging.disable(logging.INFO)
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))
    trainer, seen = build_trainer(cfg), []
    after_epoch = trainer.after_epoch

    def measured():
        after_epoch()
        if trainer.epoch % 10 == 9:
            seen.append(held())

    monkeypatch.setattr(trainer, "after_epoch", measured)
    try:
        trainer.train()
    finally:
        logging.disable(logging.NOTSET)
    assert len(seen) == EVALUATIONS // 10 and trainer.num_batches * EVALUATIONS == STEPS
    memory, *handles = zip(*seen)
    early, late = max(memory[2:6]), max(memory[-3:])
    assert late - early < 16 * 2**20, f"{(late - early) / 2**20:.1f} MiB more"
    assert [max(counts[2:]) for counts in handles] == [max(counts[2:6]) for counts in handles]

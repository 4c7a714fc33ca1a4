"""Summary of a run in ten lines, and a warning about classes with few images."""

from collections import Counter
from typing import Any

import torch

from prompting.checkpoint import learned_state
from trainers.record.log import logger


def summary(trainer: Any) -> str:
    """Return ten lines on the run of a ``PromptTrainer``."""
    cfg, data, device = trainer.cfg, trainer.dm.dataset, torch.device(trainer.device)
    learned, plan = learned_state(trainer.model), getattr(trainer, "memory_plan", None)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({torch.get_num_threads()} threads)"
    images = f"{len(data.train_x):,} to train, {len(data.val or ()):,} to validate, {len(data.test):,} to test"
    shots, precision = cfg.DATASET.NUM_SHOTS, getattr(getattr(trainer, "precision", None), "name", "fp32")
    rows = {
        "method": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "data": f"{cfg.DATASET.NAME} in {cfg.DATASET.ROOT or '.'}: {images}",
        "classes": f"{len(data.classnames):,} ({cfg.DATASET.get('SUBSAMPLE_CLASSES', 'all')})",
        "shots": f"{shots} images a class" if shots > 0 else "all images",
        "seed": cfg.SEED,
        "learned": f"{sum(tensor.numel() for tensor in learned.values()):,} parameters",
        "device": f"{chip}, precision {precision}",
        "memory": f"{plan.total / 1e9:.2f} GB estimated for a training step" if plan else "not estimated",
        "output": cfg.OUTPUT_DIR,
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())


def warn_of_few_images(trainer: Any) -> None:
    """Log one warning, with the counts, if classes have fewer training images than ``DATASET.NUM_SHOTS``."""
    data, shots = trainer.dm.dataset, trainer.cfg.DATASET.NUM_SHOTS
    counts = Counter(item.label for item in data.train_x)
    few = [f"{name} {counts[label]}" for label, name in enumerate(data.classnames) if counts[label] < shots]
    if few:
        shown = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        logger.warning(
            f"{len(few)} of {len(data.classnames)} classes have fewer training images than DATASET.NUM_SHOTS {shots}: "
            f"{shown}"
        )

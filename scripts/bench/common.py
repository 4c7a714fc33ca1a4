"""What the benchmarks of the towers share: models of real shapes with random weights, their cases and arguments."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.bench.running import RESULTS

WORDS = (
    "cat dog house garden bridge river mountain bottle violin guitar train bicycle airplane balloon camera "
    "lighthouse pineapple strawberry butterfly crocodile chandelier wheelbarrow typewriter accordion thunderstorm"
).split()


def class_names(number: int, seed: int = 0) -> list[str]:
    """Return names of one word (6 of 10), two (3 of 10) or three, drawn once for each ``number`` and ``seed``."""
    stream = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1] * 6 + [2] * 3 + [3])[torch.randint(10, (number,), generator=stream)]
    draw = torch.randint(len(WORDS), (number, 3), generator=stream)
    return [" ".join(WORDS[i] for i in row[:size]) for row, size in zip(draw.tolist(), lengths.tolist())]


def align_model(backbone: str, classes: int, prompts: int, seed: int = 0) -> Any:
    """Return ALIGN in the `released` reading (b = 2, depth 9, M = N = ``prompts``) on random weights of a backbone."""
    import open_clip
    from dassl.config import get_cfg_default

    import trainers
    from trainers.align import MMP

    torch.manual_seed(seed)
    clip = open_clip.create_model(backbone)
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    own = {"TEXT_PROMPT_NUMBER": prompts, "VISION_PROMPT_NUMBER": prompts, "TEXT_PROMPT_DEPTH": 9}
    for key, value in own.items():
        cfg.TRAINER.MMP[key] = value
    return MMP.build_clip(cfg, class_names(classes), clip)


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments that the benchmarks of the towers share."""
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 50, 100, 500, 1000], help="K")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 1, 2, 8], help="M = N")
    parser.add_argument("--images", type=int, nargs="+", default=[4], help="B")
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="an open_clip model; its weights are random")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "amp", "fp16", "bf16"])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--naive-up-to",
        type=int,
        default=125,  # beyond, a training step holds more than 24 GB
        help="the most classes the naive path is run with at four prompts; at two twice as many, at eight half",
    )
    parser.add_argument("--naive-repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    parser.add_argument("--case", help=argparse.SUPPRESS)


def cases_of(args: argparse.Namespace, **ours: Any) -> list[dict[str, Any]]:
    """Return the cases that the arguments ask for, ours first and the naive path where it is wanted."""
    cases = []
    same = {key: getattr(args, key) for key in ("backbone", "device", "precision", "threads")}
    for prompts in args.prompts:
        for images in args.images:
            for classes in args.classes:
                shared = {"classes": classes, "prompts": prompts, "images": images, **same}
                cases.append({"path": "ours", **shared, "repeat": args.repeat, **ours})
                if classes * prompts <= 4 * args.naive_up_to:
                    cases.append({"path": "naive", **shared, "repeat": args.naive_repeat})
    return cases


def effort(case: dict[str, Any], passes: int) -> float:
    """Return a rough guess of a case's seconds on a small machine; it only moves the progress bar.

    Args:
        case: one of ``cases_of``.
        passes: how often it runs the towers forward, a backward pass counted as two.
    """
    n, classes = case["prompts"], case["classes"]
    text = n * classes * (77 if case["path"] == "naive" else 4)
    return 10 + passes * (0.0017 * 200 * n * case["images"] + 0.00075 * text)


def build(case: dict[str, Any]) -> tuple[Any, AbstractContextManager[Any]]:
    """Return the model of a case on its device, and the context to run it in; set the threads it asks for."""
    from prompting.precision import Precision

    if case["threads"]:
        torch.set_num_threads(case["threads"])
    precision = Precision.resolve(case["precision"], case["device"])
    if precision.name != case["precision"]:
        raise ValueError(f"precision {case['precision']!r} does not run on {case['device']}; allowed here: 'fp32'")
    model = align_model(case["backbone"], case["classes"], case["prompts"])
    precision.cast_(model.clip)
    model.tokens = model.tokens.to(case["device"])
    return model.to(case["device"]), precision.autocast()


def image_positions(model: Any, case: dict[str, Any]) -> int:
    """Return the positions that the images take in the vision tower: M times CLS, O patches and b prompts each."""
    return case["images"] * case["prompts"] * (1 + model.shape.patches + model.prompt_learner().visual.shape[1])


def drawn_batch(model: Any, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return random images and labels for a model."""
    stream = torch.Generator().manual_seed(5)
    pictures = torch.randn(case["images"], 3, *model.shape.image_size, generator=stream)
    labels = torch.randint(case["classes"], (case["images"],), generator=stream)
    return pictures.to(case["device"]), labels.to(case["device"])

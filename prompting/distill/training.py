"""Training of a student on a teacher's class distribution (Hinton et al. 2015, arXiv 1503.02531)."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # comes with open_clip

from prompting.export.portable import ExportedModel
from prompting.images import Preprocess, read_image
from prompting.ot.checks import check_count, check_number

AREA = 0.5  # least share of a crop in the largest square of an image


@dataclass(frozen=True)
class Settings:
    """Settings of a distillation.

    Args:
        epochs: passes over the images, each of which is seen in one of its views.
        lr: largest learning rate of AdamW; it rises for a tenth of the steps and falls as a cosine.
        temperature: T of the loss, above 0.
        views: V crops of each image that the teacher scores; the first is that of the evaluation.
        batch_size: images a step.
        workers: processes that read images; 0 reads in this one.
        seed: of the crops, the order of images and weights that are drawn.

    Raises:
        TypeError, ValueError: a setting out of range.
    """

    epochs: int = 20
    lr: float = 5e-4
    temperature: float = 2.0
    views: int = 4
    batch_size: int = 32
    workers: int = 2
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "views", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("workers", self.workers, minimum=0)
        check_count("seed", self.seed, minimum=0)
        for name in ("lr", "temperature"):
            check_number(name, getattr(self, name), minimum=0.0, strict=True)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence of the student's class distribution from the teacher's.

    T^2 / B sum_b KL(p_b || q_b), with q_b = softmax(z_b / T) and KL(p || q) = sum_k p_k (log p_k - log q_k). The
    factor T^2 keeps the size of the gradients, which fall as 1 / T^2. The gradient is that of the cross entropy with
    soft targets, from which KL differs by the teacher's entropy.

    Args:
        logits: z (B, K), the student's.
        teacher: p (B, K), the teacher's softmax(logits / T); rows sum to 1.
        temperature: T, above 0.

    Returns:
        A number, at least 0; 0 if and only if the distributions are equal.

    Reference: Hinton, Vinyals and Dean, arXiv 1503.02531, section 2.
    """
    return temperature**2 * F.kl_div((logits / temperature).log_softmax(1), teacher, reduction="batchmean")


class Views(Dataset[tuple[int, Tensor]]):
    """V fixed crops of each of N images: item i V + v is (i V + v, view v of image i), the same at every call.

    View 0 is that of an evaluation; the others are square crops of random area and place, drawn from the seed.
    """

    def __init__(self, paths: Sequence[Path], preprocess: Preprocess, views: int, seed: int) -> None:
        self.paths, self.preprocess, self.views, self.seed = paths, preprocess, views, seed

    def __len__(self) -> int:
        return len(self.paths) * self.views

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        image = read_image(self.paths[index // self.views], self.preprocess.turn)
        view = index % self.views
        if view:
            draw = random.Random(f"{self.seed} {index}")
            side = max(1, round(min(image.size) * draw.uniform(AREA, 1) ** 0.5))
            left, top = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
            image = image.crop((left, top, left + side, top + side))
        return index, self.preprocess(image)


def teacher_probabilities(score: Callable[[Tensor], Tensor], views: Views, settings: Settings) -> Tensor:
    """Return the teacher's softmax(logits / T) of every view, (N V, K), on the CPU.

    The teacher sees what the student will see, so that its answer is right for each crop.
    """
    loader = DataLoader(views, settings.batch_size, num_workers=settings.workers)
    batches = [score(images).float().cpu() for _, images in tqdm(loader, desc="teacher", unit="batch", disable=None)]
    return (torch.cat(batches) / settings.temperature).softmax(1)


def order(images: int, settings: Settings) -> list[int]:
    """Return the items of ``Views`` that all epochs take: in each epoch every image once, in a random view."""
    stream = torch.Generator().manual_seed(settings.seed)
    items: list[int] = []
    for _ in range(settings.epochs):
        chosen = torch.randint(settings.views, (images,), generator=stream)
        items += (torch.randperm(images, generator=stream) * settings.views + chosen).tolist()
    return items


def share_of_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step, from 0 on, as a share of the largest one."""
    return min((step + 1) / max(1, steps // 10), (1 + math.cos(math.pi * step / steps)) / 2)


def train(
    student: ExportedModel, views: Views, teacher: Tensor, settings: Settings, device: torch.device
) -> list[float]:
    """Train a student in place on the teacher's probabilities (N V, K) of every view; it ends on the CPU in evaluation
    mode. Return the mean loss of each epoch.

    Raises:
        ValueError: the loss is no finite number.
    """
    student.to(device).train()
    images = len(views.paths)
    items, size = order(images, settings), min(settings.batch_size, images)
    loader = DataLoader(views, size, sampler=items, num_workers=settings.workers)
    optimizer = torch.optim.AdamW(student.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(share_of_rate, steps=len(loader)))
    losses: list[float] = []
    with tqdm(loader, desc="student", unit="batch", disable=None) as bar:
        for index, batch in bar:
            loss = distillation_loss(student(batch.to(device)), teacher[index].to(device), settings.temperature)
            if not loss.isfinite():
                raise ValueError(f"the loss is {loss:g} in step {len(losses) + 1}: lower --lr (it is {settings.lr:g})")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    student.cpu().eval().requires_grad_(False)
    return [sum(part) / len(part) for part in _parts(losses, settings.epochs)]


def _parts(values: list[float], number: int) -> list[list[float]]:
    """Return the values in ``number`` parts of nearly equal length."""
    ends = [round(i * len(values) / number) for i in range(number + 1)]
    return [values[a:b] for a, b in zip(ends, ends[1:]) if b > a]

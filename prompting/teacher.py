"""The frozen CLIP as a teacher: its features, and the losses that keep learned features close to them.

Shape letters: B images, K classes, S sentences per class, D embedding width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting.clip import TextEncoder, VisionEncoder, tokenize_texts


@torch.no_grad()
def text_features(encoder: TextEncoder, sentences: Sequence[Sequence[str]], clip_model: nn.Module) -> Tensor:
    """Return the frozen text features of sentences, not normalised.

    Args:
        encoder: the text encoder of ``clip_model``.
        sentences: S lists of K sentences, one per class; encoded one list at a time.
        clip_model: the CLIP whose context length limits the sentences.

    Returns:
        (S, K, D) float32.

    Raises:
        ValueError: no sentence, or a sentence longer than the context.
    """
    rows = [encoder(tokenize_texts(list(row), clip_model=clip_model)).prompt[:, 0].float() for row in sentences]
    if not rows:
        raise ValueError("a teacher needs at least one sentence per class")
    return torch.stack(rows)


@torch.no_grad()
def image_features(encoder: VisionEncoder, images: Tensor) -> Tensor:
    """Return the frozen features (B, D) of ``images`` (B, 3, H, W), float32, not normalised."""
    return encoder(images).prompt[:, 0].float()


def cosine_distance(features: Tensor, target: Tensor) -> Tensor:
    """Return 1 - mean over rows of cos(features, target), both (R, D), for R images or classes.

    Source: KgCoOp (arXiv 2303.13283).
    """
    with torch.autocast(features.device.type, enabled=False):
        return 1 - F.cosine_similarity(features.float(), target.float(), dim=-1).mean()


def absolute_distance(features: Tensor, target: Tensor) -> Tensor:
    """Return mean |x - y| over all R * D entries, x and y the normalised rows of ``features`` and ``target`` (R, D).

    Source: PromptSRC (arXiv 2307.06948).
    """
    with torch.autocast(features.device.type, enabled=False):
        return F.l1_loss(F.normalize(features.float(), dim=-1), F.normalize(target.float(), dim=-1))


def squared_distance(features: Tensor, target: Tensor) -> Tensor:
    """Return mean (x - y)^2 over all R * D entries, with x and y as in ``absolute_distance``."""
    with torch.autocast(features.device.type, enabled=False):
        return F.mse_loss(F.normalize(features.float(), dim=-1), F.normalize(target.float(), dim=-1))


def divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(softmax(teacher_logits) || softmax(logits)), both (B, K), summed and divided by B * K.

    Source: PromptSRC (arXiv 2307.06948); the division by B * K and not by B is that of its code.
    """
    with torch.autocast(logits.device.type, enabled=False):
        student, teacher = (F.log_softmax(z.float(), dim=-1) for z in (logits, teacher_logits))
        return F.kl_div(student, teacher, reduction="sum", log_target=True) / logits.numel()

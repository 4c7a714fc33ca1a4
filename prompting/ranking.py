"""Ranks classes by score; of equal scores, the class with the smaller index comes first."""

import torch
from torch import Tensor


def likeliest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k classes of highest score, and their probabilities softmax(scores).

    Classes are ordered by score, not by probability: in float32, softmax makes small differences equal. Equal scores
    are ordered by index, so that the first class is ``scores.argmax(1)``.

    Args:
        scores: (B, K) logits of any float dtype.
        k: number of classes, at least 1; values above K mean K.

    Returns:
        Indices (B, k), int64, and probabilities (B, k), float32 or float64.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    probabilities = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(1)
    return order, probabilities.gather(1, order)

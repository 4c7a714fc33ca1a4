"""Ranks classes by score; of equal scores, the class with the smaller index comes first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prompting.ot.checks import check_count


@dataclass(frozen=True)
class Predictions:
    """The scores of B images for K classes.

    Attributes:
        logits: (B, K), on the CPU.
        classnames: the K class names.
    """

    logits: Tensor
    classnames: tuple[str, ...]

    @property
    def probabilities(self) -> Tensor:
        """softmax(logits), (B, K) float32 (Eq. 7)."""
        return self.logits.float().softmax(1)

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image; of equal scores, the first class."""
        return [names[0][0] for names in self.top(1)]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return for each image the k likeliest classes with their probabilities, in descending order.

        Raises:
            TypeError, ValueError: k is not an integer >= 1.
        """
        check_count("k", k)
        indices, values = likeliest(self.logits, k)
        rows = zip(indices.tolist(), values.tolist())
        return [[(self.classnames[i], value) for i, value in zip(*row)] for row in rows]


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

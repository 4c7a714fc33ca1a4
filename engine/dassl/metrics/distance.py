"""Distances between the rows of two matrices."""

import torch
import torch.nn.functional as F
from dassl.utils import check_availability


def euclidean_squared_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """Return |a_i - b_j|^2, (m, n), of a (m, D) and b (n, D)."""
    squares = input1.square().sum(1, keepdim=True) + input2.square().sum(1)
    return squares - 2 * input1 @ input2.T


def cosine_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """Return 1 - cos(a_i, b_j), (m, n), of a (m, D) and b (n, D)."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).T


_METRICS = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}


def compute_distance_matrix(input1: torch.Tensor, input2: torch.Tensor, metric: str = "euclidean") -> torch.Tensor:
    """Return the ``euclidean`` (squared) or ``cosine`` distances (m, n) of the rows of matrices (m, D) and (n, D).

    Raises:
        ValueError: an unknown metric, or shapes that do not fit.
    """
    check_availability(metric, list(_METRICS))
    if input1.dim() != 2 or input2.dim() != 2 or input1.shape[1] != input2.shape[1]:
        shapes = f"{tuple(input1.shape)} and {tuple(input2.shape)}"
        raise ValueError(f"distances need two matrices of equal width, but got shapes {shapes}")
    return _METRICS[metric](input1, input2)

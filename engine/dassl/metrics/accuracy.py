"""Top-k accuracy of a batch."""

from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: Sequence[int] = (1,)
) -> list[torch.Tensor]:
    """Return the percentage, (1,), of samples whose label is among the k highest scores, for each k in ``topk``.

    ``output`` are scores (B, K), or a tuple or list whose first entry they are; ``target`` are labels (B,) in [0, K).

    Raises:
        ValueError: the batch is empty, or a k is not in [1, K].
    """
    scores = output[0] if isinstance(output, (tuple, list)) else output
    if len(target) == 0 or not topk or not 1 <= min(topk) <= max(topk) <= scores.size(1):
        raise ValueError(f"topk must lie in [1, {scores.size(1)}] for {len(target)} samples, but got {list(topk)}")
    ranked = scores.argsort(dim=1, descending=True, stable=True)[:, : max(topk)]  # (B, max k)
    hits = ranked.eq(target.reshape(-1, 1))
    return [hits[:, :k].float().sum().reshape(1) * (100.0 / len(target)) for k in topk]

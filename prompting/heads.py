"""Logits of the methods that compare one feature per image with one feature per class."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_logits(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """Return CLIP's logits, scale * cos(image, text), in float32.

    Args:
        image: (B, D) image features, of any length and float dtype.
        text: (K, D) class features, or (B, K, D) if they depend on the image.
        scale: 1 / tau, CLIP's ``logit_scale.exp()``.

    Returns:
        (B, K) logits.

    Source: CLIP (arXiv 2103.00020, figure 3).
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        return scale * torch.einsum("bd,bkd->bk" if text.dim() == 3 else "bd,kd->bk", image, text)

"""Which pictures are nearly the same drawing: perceptual hashes of 63 bits and how many bits two of them differ in."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.fft import dctn

NEAR = 8  # bits of 63 that two drawings of one thing differ in at most, if one is a copy of the other
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # share of each channel in brightness


def ink(picture: np.ndarray) -> np.ndarray:
    """Return how dark a picture, a mask (H, W) or RGBA (H, W, 4) in uint8, is on white paper: float32 (H, W), 0 to 255.

    A light colour still counts for a tenth, so that it does not vanish on white.
    """
    if picture.ndim == 2:
        return picture.astype(np.float32)
    return picture[..., 3] * (1 - 0.9 * (picture[..., :3].astype(np.float32) @ LUMA) / 255)


def perceptual_hash(picture: np.ndarray) -> int:
    """Return 63 bits: which of the 8 x 8 lowest frequencies, without the mean, are above their median.

    The picture, a mask (H, W) or RGBA (H, W, 4) in uint8, is first cut to its ink and put into a square, so that place
    and size do not count.
    """
    dark = ink(picture)
    rows, columns = (np.flatnonzero((dark > 0.15 * dark.max()).any(axis)) for axis in (1, 0))
    dark = dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    gaps = [max(dark.shape) - side for side in dark.shape]
    page = np.pad(dark, [(gap // 2, gap - gap // 2) for gap in gaps])
    small = np.asarray(Image.fromarray(page).resize((32, 32), Image.Resampling.BOX))
    low = dctn(small, norm="ortho")[:8, :8].ravel()[1:]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big") >> 1


def distances(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (n, m) uint8: in how many bits each of n hashes differs from each of m (both uint64)."""
    return np.bitwise_count(hashes[:, None] ^ others[None]).astype(np.uint8)


def copies_of(hashes: np.ndarray, others: np.ndarray, chunk: int = 256) -> np.ndarray:
    """Return (n,) bool: whether a hash is within ``NEAR`` bits of any of the others (both uint64)."""
    parts = np.array_split(hashes, len(hashes) // chunk + 1)
    return np.concatenate([(distances(part, others) <= NEAR).any(1) for part in parts])


def distinct(hashes: Sequence[int]) -> list[int]:
    """Return indices of pictures, first come first kept, no two of which are within ``NEAR`` bits."""
    kept: list[int] = []
    values = np.array(hashes, np.uint64)
    for i, value in enumerate(values):
        if not kept or int(np.bitwise_count(values[kept] ^ value).min()) > NEAR:
            kept.append(i)
    return kept

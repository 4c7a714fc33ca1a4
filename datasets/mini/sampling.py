"""Which pictures a pre-training batch takes: names by weight, then a picture of the name; batch i is fixed by i."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .augment import compose
from .captions import LONG_EVERY, caption_batch
from .pretraining_pack import Pack

FREQUENT = 12  # pictures of a name
RARE_WEIGHT = 0.25  # of a name with fewer
SUITE_WEIGHT = 3.0  # of a name that is a class of the suite


@dataclass(frozen=True)
class Batch:
    """A batch of B pictures: normalised pixels (B, 3, 64, 64), names (B,) and colours (B,), captions and theirs."""

    pixels: Tensor
    names: Tensor
    colours: Tensor
    captions: list[str]
    caption_names: Tensor
    caption_colours: Tensor

    def truth(self) -> Tensor:
        """Return (B, T) bool: whether each caption is true of each picture."""
        same = self.names[:, None] == self.caption_names[None]
        open_colour = self.caption_colours[None] == 0
        return same & (open_colour | (self.caption_colours[None] == self.colours[:, None]))


def name_weights(pack: Pack, least: int) -> np.ndarray:
    """Return the probability of each name: count to the power of 3/4, at most 60 counted.

    A name with fewer than ``least`` pictures is left out unless it is a class of the suite.
    """
    counts = pack.counts
    weights = np.minimum(counts, 60) ** 0.75
    weights *= np.where(pack.in_suite, SUITE_WEIGHT, np.where(counts < FREQUENT, RARE_WEIGHT, 1.0))
    weights[(counts < least) & ~pack.in_suite] = 0
    return weights / weights.sum()


class Batches:
    """Batches of ``size`` pictures; batch i depends on the seed, the stage's number ``salt`` and i only.

    Names with fewer than ``least`` pictures are left out. Pictures are composed on ``device``; the same seed draws
    other numbers on another kind of device.
    """

    def __init__(self, pack: Pack, size: int, least: int, seed: int, salt: int, device: str = "cpu") -> None:
        self.pack, self.size, self.seed, self.salt, self.device = pack, size, seed, salt, device
        self.weights = name_weights(pack, least)
        order = np.argsort(pack.name, kind="stable")
        self._order = order
        self._start = np.searchsorted(pack.name[order], np.arange(len(pack.names) + 1))

    def __call__(self, step: int, free: float) -> Batch:
        """Return batch ``step``, of which a share of ``free`` is composed freely."""
        rng = np.random.default_rng([self.seed, self.salt, step])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        names = rng.choice(len(self.weights), self.size, p=self.weights)
        places = rng.integers(self._start[names], self._start[names + 1])
        pictures = self._order[places]
        alpha, own, coloured = self.pixels(pictures)
        flags = torch.from_numpy(rng.random(self.size) < free).to(self.device)
        pixels, colours = compose(alpha, own, coloured, flags, generator)
        colours = colours.cpu()
        long = step % LONG_EVERY == LONG_EVERY - 1
        words = [self.pack.said[i] for i in self.pack.alias[pictures]]
        texts, stated = caption_batch([self.pack.names[i] for i in names], words, colours.numpy(), rng, long)
        first: dict[tuple[str, int], int] = {}
        for i, text in enumerate(texts):
            first.setdefault((text, int(names[i])), i)
        rows = list(first.values())
        return Batch(
            pixels, torch.from_numpy(names), colours, [texts[i] for i in rows], torch.from_numpy(names[rows]),
            torch.from_numpy(stated[rows]),
        )  # fmt: skip

    def pixels(self, pictures: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha (B, 1, 64, 64) and own colours (B, 3, 64, 64) in [0, 1], and whether there are any (B,)."""
        masks, colours = self.pack.masks, self.pack.colours
        split = len(masks)
        coloured = pictures >= split
        alpha = np.empty((len(pictures), 1, *masks.shape[1:]), np.uint8)
        own = np.zeros((len(pictures), 3, *masks.shape[1:]), np.uint8)
        alpha[~coloured, 0] = masks[pictures[~coloured]]
        if coloured.any():
            whole = colours[pictures[coloured] - split]
            alpha[coloured, 0] = whole[..., 3]
            own[coloured] = whole[..., :3].transpose(0, 3, 1, 2)
        parts = [torch.from_numpy(array).to(self.device) for array in (alpha, own, coloured)]
        return parts[0].float() / 255, parts[1].float() / 255, parts[2]

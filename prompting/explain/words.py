"""The vocabulary words nearest to each learned text vector, as in CoOp's ``interpret_prompt.py``."""

import unicodedata
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from prompting.clip.shape import text_tower
from prompting.explain.plans import token_word
from prompting.explain.style import INK, MUTED, SETTINGS, heading
from prompting.methods import PromptedCLIP

MOST_ROWS, COLUMN = 48, 1.35  # vectors in a picture, and the width of a word's column in inches


@dataclass(frozen=True)
class NearWords:
    """The nearest words of one learned vector, the nearest first."""

    name: str
    words: list[str]
    distances: list[float]
    """Euclidean, between the vector and the words' token embeddings."""


@torch.no_grad()
def nearest_words(model: PromptedCLIP[Any], top: int = 5, classnames: tuple[str, ...] = ()) -> list[NearWords]:
    """Return the ``top`` nearest vocabulary words of each learned vector at the input of the text tower.

    Deep prompts are left out: they enter later blocks, where no word has an embedding.

    Args:
        model: a model with learned text vectors.
        top: number of words, >= 1.
        classnames: K class names, for contexts that are specific to a class.

    Raises:
        ValueError: the method learns no text vectors, or ``top`` is below 1.
    """
    context = model.prompt_learner().text
    if context is None:
        raise ValueError(f"{model.name} learns no text vectors that could be compared with words")
    vocabulary = text_tower(model.clip).token_embedding.weight.float()
    if not 1 <= top <= len(vocabulary):
        raise ValueError(f"top is {top}; allowed: 1 to {len(vocabulary)} words")
    rows = context.flatten(0, -2).float()  # one row a vector
    unknown = vocabulary.norm(dim=1) == 0  # words that never occurred in the training of this CLIP
    parts = [torch.cdist(part, vocabulary).masked_fill(unknown, torch.inf) for part in rows.split(256)]
    nearest = [part.topk(top, largest=False) for part in parts]
    distances, indices = (torch.cat(values).tolist() for values in zip(*nearest))
    names = _names(context, classnames)
    return [NearWords(name, list(map(token_word, i)), values) for name, i, values in zip(names, indices, distances)]


@torch.no_grad()
def word_spacing(model: PromptedCLIP[Any]) -> float:
    """Return the distance between a vocabulary word and its nearest other word: the median over 512 words.

    A vector that is farther than this from its nearest word is like no word.
    """
    vocabulary = text_tower(model.clip).token_embedding.weight.float()
    words = vocabulary[vocabulary.norm(dim=1) > 0]
    chosen = torch.linspace(0, len(words) - 1, 512).long()
    distances = torch.cdist(words[chosen], words, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.topk(2, largest=False).values[:, 1].median())


def _names(context: Tensor, classnames: tuple[str, ...]) -> list[str]:
    """Name the vectors of a context (N, b, d_l) or (N, K, b, d_l)."""
    names = []
    for n, *middle, i in product(*map(range, context.shape[:-1])):
        of_class = f", {classnames[middle[0]] if classnames else f'class {middle[0] + 1}'}" if middle else ""
        names.append(f"prompt {n + 1}{of_class}, [{i + 1}]")
    return names


def drawable(word: str) -> str:
    """Return a word with the names of characters, such as emoji, in place of those that the font of figures lacks."""
    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else f"<{unicodedata.name(c, '?').lower()}>" for c in word)


def in_words(found: list[NearWords], spacing: float) -> str:
    """Say how many vectors are like a word, in one sentence."""
    far = sum(vector.distances[0] >= spacing for vector in found)
    return (
        f"{len(found) - far} of {len(found)} vectors are as near to a word as a word is to its nearest neighbour "
        f"(median distance {spacing:.3f})."
    )


def words_figure(found: list[NearWords], spacing: float, title: str) -> Figure:
    """Draw the nearest words as a table, in which the words nearer than ``spacing`` (``word_spacing``) are blue."""
    rows, columns = found[:MOST_ROWS], len(found[0].words)
    left = 0.35 + 0.085 * max(len(row.name) for row in rows)
    width, height = max(left + COLUMN * columns + 0.3, 6.5), 1.1 + 0.34 * len(rows) + 0.2
    with mpl.rc_context({**SETTINGS, "axes.grid": False}):
        figure = Figure(figsize=(width, height), dpi=150)
        note = f"{in_words(found, spacing)}\nBlue: those words. Grey: the nearest words, but too far to say anything."
        if len(found) > len(rows):
            note += f" The first {len(rows)} of {len(found)} vectors."
        heading(figure, title, note)
        axes = figure.add_axes((left / width, 0.2 / height, COLUMN * columns / width, 0.34 * len(rows) / height))
        near = torch.tensor([row.distances for row in rows]) < spacing
        axes.imshow(near.numpy(), cmap=ListedColormap(["#f6f6f4", "#9fc6e0"]), aspect="auto", vmin=0, vmax=1)
        for i, row in enumerate(rows):
            for k, (word, distance) in enumerate(zip(map(drawable, row.words), row.distances)):
                tone = INK if distance < spacing else MUTED
                axes.text(k - 0.45, i, word if len(word) < 13 else word[:11] + "…", va="center", color=tone, size=8.5)
                axes.text(k + 0.46, i, f"{distance:.2f}", va="center", ha="right", color=tone, size=6.5)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure

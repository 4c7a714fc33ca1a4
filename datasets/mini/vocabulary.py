"""The mini CLIP's word table: rows for the tokens of pre-training, and a rule that gives every other token a row.

A token that pre-training never saw is a mixture of three tokens that it saw: half of the one that is spelled most like
it, a quarter of the second and a quarter of one that is drawn by the token's number. No two tokens have the same
mixture. The file holds ``token_embedding.rows`` (R, d) and ``token_embedding.parts`` (V, 3); a token that was seen is
three times itself.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import torch
from open_clip import SimpleTokenizer
from scipy.sparse import csr_matrix
from torch import Tensor

WEIGHTS = (0.5, 0.25, 0.25)
ROWS, PARTS, IDS, TABLE = (f"token_embedding.{name}" for name in ("rows", "parts", "ids", "weight"))


def expand(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the whole word table (V, d) in place of its rows and parts."""
    whole = {key: value for key, value in state.items() if key not in (ROWS, PARTS, IDS)}
    weights = torch.tensor(WEIGHTS)
    whole[TABLE] = torch.einsum("vpd,p->vd", state[ROWS].float()[state[PARTS].long()], weights)
    return whole


def tokens_of(texts: Iterable[str], tokenizer: SimpleTokenizer) -> list[int]:
    """Return the sorted ids of all tokens of the texts, with the start and the end token."""
    used = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    for text in texts:
        used.update(tokenizer.encode(text))
    return sorted(used)


@lru_cache(maxsize=2)
def mixtures(used: tuple[int, ...]) -> Tensor:
    """Return the parts (V, 3), int16: for each token of CLIP's BPE the rows that make up its embedding.

    ``used`` are the sorted ids of the tokens that have a row; row i belongs to ``used[i]``.

    Raises:
        ValueError: they are too few to give every other token a different mixture.
    """
    tokenizer = SimpleTokenizer()
    size = tokenizer.vocab_size
    grams = _grams([tokenizer.decoder[i] for i in range(size)])
    norm = np.sqrt(np.maximum(grams.multiply(grams).sum(1), 1e-9))
    grams = csr_matrix(grams.multiply(1 / norm))
    words = [row for row, token in enumerate(used) if token < tokenizer.sot_token_id]
    known = grams[[used[row] for row in words]].T.tocsr()
    parts = np.zeros((size, 3), np.int16)
    taken: set[tuple[int, ...]] = set()
    row_of = {token: row for row, token in enumerate(used)}
    for start in range(0, size, 4096):
        alike = (grams[start : start + 4096] @ known).toarray()
        nearest = np.argpartition(-alike, 1, axis=1)[:, :2]
        for token in range(start, min(start + 4096, size)):
            if token in row_of:
                parts[token] = row_of[token]
                continue
            near = nearest[token - start]
            near = near[np.argsort(-alike[token - start, near], kind="stable")]
            spelled = [words[k] if alike[token - start, k] > 0 else None for k in near]
            parts[token] = _draw(spelled, words, taken, np.random.default_rng(token))
    return torch.from_numpy(parts)


def _draw(
    spelled: list[int | None],
    words: list[int],
    taken: set[tuple[int, ...]],
    draw: np.random.Generator,
    tries: int = 50,
) -> tuple[int, int, int]:
    """Return three rows that no other token has: those that are spelled alike, as far as they leave a choice."""
    for attempt in range(100 * tries):
        first = spelled[0] if spelled[0] is not None and attempt < 2 * tries else words[draw.integers(len(words))]
        second = spelled[1] if spelled[1] is not None and attempt < tries else words[draw.integers(len(words))]
        third = words[draw.integers(len(words))]
        key = (first, *sorted((second, third)))
        if key not in taken and len({first, second, third}) == 3:
            taken.add(key)
            return first, second, third
    raise ValueError(f"{len(words)} tokens are too few to tell all others apart")


def _grams(words: list[str]) -> csr_matrix:
    """Return (n, grams): how often each word has each run of two, three or four letters, its ends marked."""
    index: dict[str, int] = {}
    rows, columns = [], []
    for row, word in enumerate(words):
        marked = f"<{word.replace('</w>', '')}>"
        for length in (2, 3, 4):
            for i in range(len(marked) - length + 1):
                rows.append(row)
                columns.append(index.setdefault(marked[i : i + length], len(index)))
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(words), len(index)))

"""Tokenized prompts: token ids, and the positions of the learned vectors, the class name and EOS."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import open_clip
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from prompting.clip.shape import text_tower
from prompting.ot.checks import check_choice
from prompting.ot.settings import READINGS

POSITIONS = ("end", "middle", "front")
PLACEHOLDER = "X"


class PromptTokens(NamedTuple):
    """Tokenized prompts of K classes; the leading axis is N if the fixed words differ between prompts, else 1.

    Attributes:
        ids: (N|1, K, T) int64, SOS to EOS, padded with zeros; T is the length of the longest prompt.
        eos: (N|1, K) int64, position of EOS.
        context: (N|1, K, b) int64, ascending positions whose embeddings the learned vectors replace; b may be 0.
        words: (N|1, K, T) bool, True at the tokens of the class name (not at the full stop).
    """

    ids: Tensor
    eos: Tensor
    context: Tensor
    words: Tensor

    def select(self, classes: slice | Tensor, prompts: slice | Tensor = slice(None)) -> "PromptTokens":
        """Return the tokens of some classes and prompts, slices or indices of the axes K and N; T is unchanged."""
        with _disable_current_modes():  # to torch.export, tokens are constants
            return PromptTokens(*(field[prompts][:, classes] for field in self))


class _Prompt(NamedTuple):
    ids: list[int]
    context: list[int]
    words: list[int]


@cache
def clip_tokenizer() -> open_clip.SimpleTokenizer:
    """Return CLIP's BPE tokenizer."""
    return open_clip.SimpleTokenizer()


def clean_name(name: str) -> str:
    """Return a class name or prefix with underscores replaced by spaces, and stripped."""
    return name.replace("_", " ").strip()


def _arrange(prefix: str, name: str, n_ctx: int, position: str) -> _Prompt:
    """Tokenize one prompt, without SOS and EOS: the whole "prefix name." at once, as in CoOp (a name that ends in
    punctuation merges with the full stop), then reordered."""
    encode = clip_tokenizer().encode
    head, whole = encode(prefix), encode(f"{prefix} {name}.")
    if whole[: len(head)] != head:
        raise ValueError(f"the tokens of prefix {prefix!r} change in front of class name {name!r}")
    rest, n_words = whole[len(head) :], len(encode(name))
    words, tail = rest[:n_words], rest[n_words:]
    cut = {"end": len(head), "middle": n_ctx // 2, "front": 0}[position]
    context = [i if i < cut else i + len(words) for i in range(n_ctx)]
    return _Prompt(head[:cut] + words + head[cut:] + tail, context, list(range(cut, cut + len(words))))


def _stack(rows: list[list[_Prompt]], labels: Sequence[str], clip_model: nn.Module) -> PromptTokens:
    """Add SOS and EOS to prompts (N lists of K) and pad them to the longest one."""
    tokenizer, context_length = clip_tokenizer(), text_tower(clip_model).positional_embedding.shape[0]
    eos = torch.tensor([[len(prompt.ids) + 1 for prompt in row] for row in rows])  # (N, K)
    length, longest = int(eos.max()) + 1, int(eos.argmax()) % len(labels)
    if length > context_length:
        raise ValueError(
            f"the prompt of {labels[longest]!r} has {length} tokens (start and end included); "
            f"the text tower reads at most {context_length}"
        )
    ids = torch.zeros(*eos.shape, length, dtype=torch.int64)
    words = torch.zeros_like(ids, dtype=torch.bool)
    for n, row in enumerate(rows):
        for k, prompt in enumerate(row):
            sequence = [tokenizer.sot_token_id, *prompt.ids, tokenizer.eot_token_id]
            ids[n, k, : len(sequence)] = torch.tensor(sequence)
            words[n, k, [i + 1 for i in prompt.words]] = True
    context = torch.tensor([[[i + 1 for i in p.context] for p in row] for row in rows], dtype=torch.int64)
    return PromptTokens(ids, eos, context, words)


def tokenize_prompts(
    classnames: Sequence[str],
    *,
    n_ctx: int,
    prefixes: Sequence[str] | None = None,
    position: str = "end",
    clip_model: nn.Module,
) -> PromptTokens:
    """Tokenize ``SOS <prefix> <class name>. EOS`` for each of N prefixes and K classes.

    Learned vectors replace the first ``n_ctx`` tokens of a prefix; further tokens are fixed words. The class name
    follows the prefix (``end``) or its first ``n_ctx // 2`` tokens (``middle``), or precedes it (``front``); the full
    stop is always last.

    Args:
        classnames: K names; underscores become spaces.
        n_ctx: b >= 0, the number of learned vectors.
        prefixes: N prefixes of at least ``n_ctx`` tokens each; an empty prefix means ``n_ctx`` placeholders ("X X").
            None is one empty prefix.
        position: position of the class name, ``end``, ``middle`` or ``front``.
        clip_model: the model whose context length limits the prompts.

    Returns:
        The tokens, with a leading axis of N (1 if ``prefixes`` is None).

    Raises:
        ValueError: no class name or an empty one, a negative ``n_ctx``, a prefix shorter than ``n_ctx`` tokens, an
            unknown position, a prompt longer than the context.

    Source: CoOp (arXiv 2109.01134), section 3.2; several prompts: ALIGN (arXiv 2309.13847), section 3.1.
    """
    check_choice("class token position", position, POSITIONS)
    if n_ctx < 0:
        raise ValueError(f"n_ctx is {n_ctx}; allowed: 0 or more learned vectors")
    names = [clean_name(name) for name in classnames]
    if not names or not all(names):
        raise ValueError(f"class names must be one or more non-empty strings; found {list(classnames)[:5]!r}")
    heads = [clean_name(prefix) or " ".join([PLACEHOLDER] * n_ctx) for prefix in (prefixes or [""])]
    for head in heads:
        if (found := len(clip_tokenizer().encode(head))) < n_ctx:
            raise ValueError(f"prefix {head!r} has {found} tokens; n_ctx {n_ctx} needs as many")
    rows = [[_arrange(head, name, n_ctx, position) for name in names] for head in heads]
    return _stack(rows, names, clip_model)


def tokenize_texts(
    texts: Sequence[str] | Sequence[Sequence[str]], *, n_ctx: int = 0, clip_model: nn.Module
) -> PromptTokens:
    """Tokenize sentences; every token but SOS, EOS and the placeholders of learned vectors counts as a word.

    Args:
        texts: K sentences, or N lists of K sentences (one list per template).
        n_ctx: b, the number of learned vectors between SOS and each sentence.
        clip_model: the model whose context length limits the sentences.

    Returns:
        The tokens, with a leading axis of N (1 for a flat list).

    Raises:
        ValueError: no sentence, lists of different lengths, a sentence longer than the context.
    """
    flat = bool(texts) and isinstance(texts[0], str)
    lists: list[list[str]] = [list(texts)] if flat else [list(row) for row in texts]  # type: ignore[arg-type]
    if not lists or not lists[0] or len({len(row) for row in lists}) > 1:
        raise ValueError(f"texts must be K sentences or N lists of K; found lists of {[len(row) for row in lists]}")
    rows = []
    for row in lists:
        encoded = [clip_tokenizer().encode(" ".join([PLACEHOLDER] * n_ctx + [text])) for text in row]
        rows.append([_Prompt(ids, list(range(n_ctx)), list(range(n_ctx, len(ids)))) for ids in encoded])
    return _stack(rows, lists[0], clip_model)


def token_set_mask(tokens: PromptTokens, reading: str = "paper") -> Tensor:
    """Return the text positions that form the token-level set s of each prompt and class.

    Args:
        tokens: the prompts.
        reading: ``paper`` selects the learned vectors and the class name; ``released`` selects positions 0 to e - 2 in
            all prompts, where e is the EOS position of the class's first prompt.

    Returns:
        (N|1, K, T) bool.

    Raises:
        ValueError: for an unknown reading.

    Source: ALIGN (arXiv 2309.13847), section 3.2, and its released code.
    """
    check_choice("reading", reading, READINGS)
    if reading == "paper":
        return tokens.words.scatter(2, tokens.context, True)
    positions = torch.arange(tokens.ids.shape[2], device=tokens.ids.device)
    first_eos = tokens.eos[:1].unsqueeze(-1)  # (1, K, 1)
    return (positions < first_eos - 1).expand_as(tokens.ids)


def word_vectors(clip: nn.Module, text: str, length: int | None = None) -> Tensor:
    """Return the token embeddings of words, to initialise learned vectors.

    Args:
        clip: a loaded open_clip model.
        text: the words; underscores become spaces.
        length: number of leading tokens to take; None takes all.

    Returns:
        (length, d_l) float32, detached.

    Raises:
        ValueError: if the words have fewer tokens than ``length``.
    """
    ids = clip_tokenizer().encode(clean_name(text))
    if length is not None and len(ids) < length:
        raise ValueError(f"{text!r} has {len(ids)} tokens, fewer than the {length} vectors to initialise")
    return text_tower(clip).token_embedding.weight[ids[:length]].detach().float()

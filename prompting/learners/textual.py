"""``Prompts``, the output of every learner; learned text contexts and the deep prompts of later blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prompting.clip.adapters import BlockAdapter

INIT_STD = 0.02  # standard deviation of prompts that are not initialised with words, as in CoOp


class Prompts(NamedTuple):
    """Prompts for the two encoders; None or empty for a tower without prompts.

    Shapes: ``text`` (N, b, d_l), or (N, K, b, d_l) if class-specific; ``visual`` (M, b, d_v); ``deep_text`` and
    ``deep_visual`` have one such tensor, or None, for each block after the first. ``text_adapters`` and
    ``visual_adapters`` have one adapter, or None, for the input and for each block.
    """

    text: Tensor | None = None
    deep_text: Sequence[Tensor | None] = ()
    visual: Tensor | None = None
    deep_visual: Sequence[Tensor | None] = ()
    text_adapters: Sequence[BlockAdapter | None] = ()
    visual_adapters: Sequence[BlockAdapter | None] = ()


def random_prompt(*shape: int) -> Tensor:
    """Return a float32 tensor of ``shape`` from N(0, 0.02^2)."""
    return nn.init.normal_(torch.empty(shape), std=INIT_STD)


def deep_prompts(depth: int, *shape: int) -> nn.ParameterList:
    """Return one random prompt for each of the ``depth - 1`` blocks after the first."""
    return nn.ParameterList([nn.Parameter(random_prompt(*shape)) for _ in range(depth - 1)])


def with_prompt_axis(prompt: Tensor, dims: int = 3) -> Tensor:
    """Return ``prompt`` with a prompt axis; one of size 1 is added if ``prompt`` has fewer than ``dims`` axes."""
    return prompt if prompt.dim() >= dims else prompt.unsqueeze(0)


def check_positive(kind: str, **values: int | None) -> None:
    """Raise ``ValueError`` if a value is below 1; None is allowed. ``kind`` names the prompts in the message."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name.replace('_', ' ')} of {kind} prompts is {value}; allowed: 1 or more")


class ClassContexts(nn.Module):
    """Class-specific contexts: one for each of K classes (CoOp, arXiv 2109.01134, section 3.2).

    Args:
        number: N, or None for a single context per class, stored without the prompt axis.
        classes: K.
        length: b, number of vectors in a context.
        width: d_l, the text tower's width.

    Raises:
        ValueError: a number or length below 1.
    """

    def __init__(self, number: int | None, classes: int, length: int, width: int) -> None:
        super().__init__()
        check_positive("text", number=number, length=length)
        shape = (classes, length, width)
        self.ctx = nn.Parameter(random_prompt(*shape) if number is None else random_prompt(number, *shape))

    def forward(self) -> Prompts:
        """Return ``Prompts`` with text (N, K, b, d_l)."""
        return Prompts(with_prompt_axis(self.ctx, dims=4))


class TextPrompts(nn.Module):
    """N learned text contexts t^1 .. t^N of b vectors, and learned replacements in later blocks (deep prompts).

    Args:
        number: N, or None for a single context, stored without the prompt axis as in CoOp and MaPLe.
        length: b, number of vectors in a context.
        width: d_l, the text tower's width.
        depth: number of blocks with prompts, the first included; 0 learns no text prompts.
        init: initial values of the first contexts, (b, d_l) each; the others are drawn from N(0, 0.02^2).

    Raises:
        ValueError: a number or length below 1 with a depth above 0.

    Source: section 3.1 of the paper; deep prompts as in MaPLe (arXiv 2210.03117, section 3.2).
    """

    def __init__(
        self, number: int | None, length: int, width: int, depth: int = 1, init: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        if depth:
            check_positive("text", number=number, length=length)
        shape = (length, width) if number is None else (number, length, width)
        context = random_prompt(*shape)
        for row, start in zip(with_prompt_axis(context), init):
            row.copy_(start)
        self.ctx = nn.Parameter(context) if depth > 0 else None
        self.compound_prompts_text = deep_prompts(depth, *shape)

    def forward(self) -> Prompts:
        """Return text prompts only."""
        if self.ctx is None:
            return Prompts()
        return Prompts(with_prompt_axis(self.ctx), [with_prompt_axis(p) for p in self.compound_prompts_text])

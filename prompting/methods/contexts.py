"""The learned text contexts of CoOp, one or several."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from prompting.clip import ClipShape, PromptTokens, tokenize_prompts, word_vectors
from prompting.clip.tokens import clean_name
from prompting.learners import ClassContexts, TextPrompts
from prompting.methods.base import Options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContextOptions(Options):
    """Settings of learned contexts."""

    n_ctx: int = 16  # b, vectors of a context
    csc: bool = False  # class-specific contexts
    class_token_position: str = "end"  # or middle, or front


def learned_contexts(
    options: ContextOptions,
    number: int | None,
    classnames: Sequence[str],
    clip_model: nn.Module,
    starts: Sequence[str] = (),
) -> tuple[nn.Module, PromptTokens]:
    """Return the learner and the tokens of N learned contexts.

    Args:
        options: context length b, class-specific or not, and the position of the class name (end, middle or front).
        number: N, or None for a single context, stored without the prompt axis.
        classnames: K class names.
        clip_model: the CLIP to prompt.
        starts: initial words of the first contexts, one string per context. The word count of the first string
            replaces ``n_ctx``, and the contexts are the same for all classes.

    Source: CoOp (arXiv 2109.01134), section 3.2.
    """
    width = ClipShape.from_model(clip_model).text_width
    starts = [words for words in starts if words][: number or 1]
    length = len(clean_name(starts[0]).split()) if starts else options.n_ctx
    learner: nn.Module
    if options.csc and starts:
        logger.warning("CSC is not used: contexts that start from words (CTX_INIT) are the same for all classes")
    if options.csc and not starts:
        learner = ClassContexts(number, len(classnames), length, width)
    else:
        learner = TextPrompts(number, length, width, init=[word_vectors(clip_model, text, length) for text in starts])
    prefixes = starts + [""] * ((number or 1) - len(starts))
    position = options.class_token_position
    return learner, tokenize_prompts(
        classnames, n_ctx=length, prefixes=prefixes, position=position, clip_model=clip_model
    )

"""CoOp: learned text contexts in front of, around or behind the class name (arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import nn

from prompting.clip import ClipShape, PromptTokens, tokenize_prompts, word_vectors
from prompting.clip.tokens import clean_name
from prompting.learners import ClassContexts, TextPrompts
from trainers.base import CosineCLIP, PromptTrainer
from trainers.log import logger


class CustomCLIP(CosineCLIP):
    """CLIP with one learned context for all classes, or one for each (``CSC``)."""

    node = "COOP"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        self.prompt_learner, self.tokens = learned_contexts(own, None, classnames, self.clip, own_start(own))


def own_start(own: Any) -> list[str]:
    """Return the words of ``CTX_INIT``, from which the first context starts, or nothing."""
    return [own.CTX_INIT] if own.CTX_INIT else []


def learned_contexts(
    own: Any, number: int | None, classnames: Sequence[str], clip_model: nn.Module, starts: Sequence[str] = ()
) -> tuple[nn.Module, PromptTokens]:
    """Return the learner and the tokens of CoOp's contexts, and of the methods that learn several of them.

    Args:
        own: a config node with ``N_CTX``, ``CSC`` (which words to start from set aside) and ``CLASS_TOKEN_POSITION``.
        number: N, or ``None`` for one context that is stored without a leading axis.
        classnames: K class names.
        clip_model: the CLIP to prompt.
        starts: words that the first contexts start from, one a context; the number of the first one's words takes the
            place of ``N_CTX``.
    """
    width = ClipShape.of(clip_model).text_width
    starts = list(starts[: number or 1])
    length = len(clean_name(starts[0]).split()) if starts else own.N_CTX
    learner: nn.Module
    if own.CSC and starts:
        logger.warning("CSC is not used: contexts that start from words (CTX_INIT) are the same for all classes")
    if own.CSC and not starts:
        learner = ClassContexts(number, len(classnames), length, width)
    else:
        learner = TextPrompts(number, length, width, init=[word_vectors(clip_model, text, length) for text in starts])
    prefixes = starts + [""] * ((number or 1) - len(starts))
    position = own.CLASS_TOKEN_POSITION
    return learner, tokenize_prompts(
        classnames, n_ctx=length, prefixes=prefixes, position=position, clip_model=clip_model
    )


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Learns the context of a sentence around the class name."""

    model_name = saved_part = "prompt_learner"
    model_class = CustomCLIP
    defaults = {
        "N_CTX": 16,
        "CSC": False,  # class-specific contexts
        "CTX_INIT": "",  # words to start from; empty starts at random
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",  # or middle, or front
    }

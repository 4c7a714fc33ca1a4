"""CoOp: a learned text context before, around or after the class name (arXiv 2109.01134)."""

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.methods.base import CosineCLIP
from prompting.methods.contexts import ContextOptions, learned_contexts


@dataclass(frozen=True)
class CoOpOptions(ContextOptions):
    """Settings of CoOp."""

    ctx_init: str = ""  # initial words of the context; "" initialises it at random


class CoOp(CosineCLIP[CoOpOptions]):
    """CLIP with one learned context for all classes, or one for each class (``csc``)."""

    name = "CoOp"
    options_class = CoOpOptions

    def build(self, classnames: Sequence[str], options: CoOpOptions) -> None:
        self.prompt_learner, self.tokens = learned_contexts(options, None, classnames, self.clip, [options.ctx_init])

"""UPT: one shared prompt, which a transformer block maps to the prompts of both towers (arXiv 2210.07225).

Reading ``paper`` (``UnifiedPrompts``) follows the parts of the paper's text that could be read; chosen here: heads as
wide as CLIP's, GELU, no dropout, and deep prompts. Reading ``released`` (``ReleasedUnifiedPrompts``) is the first
author's trainer ``Unified``, which as published calls a function that does not exist and takes 4 vectors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.clip import tokenize_prompts
from prompting.learners import ReleasedUnifiedPrompts, UnifiedPrompts
from prompting.methods.base import CosineCLIP, Options
from prompting.methods.coop import CoOpOptions
from prompting.ot.checks import check_choice


@dataclass(frozen=True)
class UPTOptions(Options):
    """Settings of UPT.

    Raises:
        ValueError: an unknown reading.
    """

    n_ctx_text: int = 4
    n_ctx_vision: int = 4
    prompt_depth: int = 9  # number of blocks of each tower with prompts, the first included; ``released`` takes 1
    reading: str = "paper"  # or released

    def __post_init__(self) -> None:
        check_choice("reading", self.reading, ("paper", "released"))


class UPT(CosineCLIP[UPTOptions]):
    """CLIP with one text and one visual prompt, both made from one shared prompt."""

    name = "UPT"
    options_class = UPTOptions

    def build(self, classnames: Sequence[str], options: UPTOptions) -> None:
        lengths, widths = (options.n_ctx_text, options.n_ctx_vision), (self.shape.text_width, self.shape.vision_width)
        if options.reading == "released":
            self.shape.check_depth(text=1, vision=1)
            self.prompt_learner = ReleasedUnifiedPrompts(*lengths, *widths)
        else:
            self.shape.check_depth(text=options.prompt_depth, vision=options.prompt_depth)
            self.prompt_learner = UnifiedPrompts(*lengths, *widths, options.prompt_depth)
        self.tokens = tokenize_prompts(classnames, n_ctx=options.n_ctx_text, clip_model=self.clip)


class Unified(CosineCLIP[CoOpOptions]):
    """UPT's reading ``released`` under the name, node and keys of the released code: b text and b visual vectors.

    The word count of ``ctx_init`` replaces b; its words are token ids only and initialise nothing. ``csc`` is not used.
    """

    name = "Unified"
    options_class = CoOpOptions

    def build(self, classnames: Sequence[str], options: CoOpOptions) -> None:
        self.shape.check_depth(text=1, vision=1)
        words = options.ctx_init
        length = len(words.split()) if words else options.n_ctx
        widths = self.shape.text_width, self.shape.vision_width
        self.prompt_learner = ReleasedUnifiedPrompts(length, length, *widths)
        position = options.class_token_position
        self.tokens = tokenize_prompts(
            classnames, n_ctx=length, prefixes=[words], position=position, clip_model=self.clip
        )

"""MaPLe: deep text prompts, and visual prompts projected from them (arXiv 2210.03117)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prompting.clip import tokenize_prompts, word_vectors
from prompting.learners import ProjectedPrompts
from prompting.methods.base import CosineCLIP, Options


@dataclass(frozen=True)
class MaPLeOptions(Options):
    """Settings of MaPLe."""

    n_ctx: int = 2  # b, vectors of a prompt
    ctx_init: str = "a photo of a"  # initial words of the prompt, for n_ctx up to 4
    prompt_depth: int = 9  # number of blocks of each tower with prompts, the first included


class MaPLe(CosineCLIP[MaPLeOptions]):
    """CLIP with one text prompt and its projection as the visual prompt."""

    name = "MaPLe"
    options_class = MaPLeOptions

    def build(self, classnames: Sequence[str], options: MaPLeOptions) -> None:
        self.shape.check_depth(text=options.prompt_depth, vision=options.prompt_depth)
        words, start = start_from_words(options.ctx_init, options.n_ctx, self.clip)
        widths = self.shape.text_width, self.shape.vision_width
        self.prompt_learner = ProjectedPrompts(None, options.n_ctx, *widths, options.prompt_depth, start)
        self.tokens = tokenize_prompts(classnames, n_ctx=options.n_ctx, prefixes=[words], clip_model=self.clip)


def start_from_words(words: str, length: int, clip_model: nn.Module) -> tuple[str, list[Tensor]]:
    """Return the words of CTX_INIT, and a list with the initial value (b, d_l) of a prompt of b = ``length`` vectors.

    Tokens after the first b stay in the prompt as fixed words. Prompts of more than four vectors start at random: the
    words are "" (placeholders), and the list is empty.
    """
    if not words or length > 4:
        return "", []
    return words, [word_vectors(clip_model, words, length)]

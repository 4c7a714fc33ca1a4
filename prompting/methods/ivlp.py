"""IVLP: deep prompts in both towers, learned independently (the baseline of MaPLe, arXiv 2210.03117, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.clip import tokenize_prompts
from prompting.learners import IndependentPrompts, TextPrompts, VisualPrompts
from prompting.methods.base import CosineCLIP, Options
from prompting.methods.maple import start_from_words
from prompting.methods.vpt import released_tower_names


@dataclass(frozen=True)
class IVLPOptions(Options):
    """Settings of IVLP."""

    n_ctx_vision: int = 2  # b of the visual prompt
    n_ctx_text: int = 2  # b of the text prompt
    ctx_init: str = "a photo of a"  # initial words of the text prompt
    prompt_depth_vision: int = 9  # number of blocks with prompts, the first included; 0: no learned prompt
    prompt_depth_text: int = 9


class IVLP(CosineCLIP[IVLPOptions]):
    """CLIP with one text and one visual prompt, learned independently."""

    name = "IVLP"
    options_class = IVLPOptions

    def build(self, classnames: Sequence[str], options: IVLPOptions) -> None:
        text_depth, vision_depth = options.prompt_depth_text, options.prompt_depth_vision
        self.shape.check_depth(text=text_depth, vision=vision_depth)
        words, start = start_from_words(options.ctx_init, options.n_ctx_text, self.clip)
        self.prompt_learner = IndependentPrompts(
            TextPrompts(None, options.n_ctx_text, self.shape.text_width, text_depth, start),
            VisualPrompts(None, options.n_ctx_vision, self.shape.vision_width, vision_depth),
        )
        self.released_names = {
            **released_tower_names("prompt_learner.text", "text_encoder", text_depth),
            **released_tower_names("prompt_learner.visual", "image_encoder", vision_depth),
            "prompt_learner.text.ctx": "prompt_learner.ctx",
        }
        self.tokens = tokenize_prompts(classnames, n_ctx=options.n_ctx_text, prefixes=[words], clip_model=self.clip)

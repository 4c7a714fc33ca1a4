"""TCP: KgCoOp with class-aware tokens inside the text tower (arXiv 2311.18231).

The tokens c_k = meta_net(w0_k) replace the inputs of block LAYER at the context positions; w0_k is the frozen CLIP's
feature of a sentence about class k. loss = cross entropy + 8 (1 - mean over classes cos(w, w0)).
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from prompting import teacher
from prompting.clip import blocks, tokenize_texts, word_vectors
from prompting.clip.templates import fill
from prompting.learners import Prompts
from prompting.learners.textual import random_prompt, with_prompt_axis
from prompting.methods.kgcoop import PHRASE, KgCoOp, KgCoOpOptions
from prompting.ot.checks import check_count

logger = logging.getLogger("prompting")

LENGTH = 4  # context vectors, and class-aware tokens
WEIGHT = 8.0  # weight of the distance to the teacher
TEMPLATES = {  # the teacher's sentences, where they differ from CoOp's
    "DescribableTextures": "a photo of a {}, a type of texture.",
    "FGVCAircraft": "a photo of an aircraft {}.",
    "Food101": "a photo of a {}, a type of food.",
}
SENTENCES = {  # the words after the context; those of other data sets are "{}."
    "OxfordPets": "{}, a type of pet.",
    "OxfordFlowers": "{}, a type of flower.",
    "FGVCAircraft": "{}, a type of aircraft.",
    "Food101": "{}, a type of food.",
    "DescribableTextures": "{} texture.",
    "StanfordCars": "{}, a type of car",
    "UCF101": "person doing {}.",
}


@dataclass(frozen=True)
class TCPOptions(KgCoOpOptions):
    """Settings of TCP; ``w`` has no effect, as the published weight is a constant.

    Raises:
        ValueError: another context length, with which the published code fails; a class name that is not at the end.
    """

    n_ctx: int = LENGTH
    layer: int = 8  # block, counted from 0, whose input gets the class-aware tokens; published as a constant

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_ctx != LENGTH:
            raise ValueError(f"n_ctx is {self.n_ctx}; allowed: {LENGTH}, as many as class-aware tokens")
        check_count("layer", self.layer)


class ClassAwarePrompts(nn.Module):
    """A learned context, and class-aware tokens made from features of the classes.

    Args:
        context: initial value, (4, d_l) or class-specific (K, 4, d_l).
        features: w0 (K, D), of unit length.
        layer: block whose input gets the class-aware tokens.
    """

    def __init__(self, context: Tensor, features: Tensor, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.ctx = nn.Parameter(context)
        inner, outer = features.shape[1] // 4, context.shape[-2] * context.shape[-1]
        layers = {
            "linear1": nn.Linear(features.shape[1], inner),
            "gelu": blocks.QuickGELU(),
            "linear2": nn.Linear(inner, outer),
        }
        self.meta_net = nn.Sequential(OrderedDict(layers))
        self.register_buffer("features", features, persistent=False)

    def forward(self) -> Prompts:
        """Return the context (1, 4, d_l) and, for block ``layer``, the class-aware tokens (1, K, 4, d_l)."""
        tokens = self.meta_net(self.get_buffer("features")).unflatten(1, self.ctx.shape[-2:])
        context = with_prompt_axis(self.ctx, 4 if self.ctx.dim() == 3 else 3)
        return Prompts(context, [*[None] * (self.layer - 1), tokens.unsqueeze(0)])


class TCP(KgCoOp):
    """CLIP with a learned context and class-aware tokens, whose class features stay close to the frozen CLIP's."""

    name = "TCP"
    options_class = TCPOptions

    def build(self, classnames: Sequence[str], options: TCPOptions) -> None:  # type: ignore[override]
        if options.layer >= self.shape.text_layers:
            raise ValueError(f"layer is {options.layer}; the text tower's blocks are 0 to {self.shape.text_layers - 1}")
        if options.w not in (1.0, WEIGHT):
            logger.warning(
                "TCP: W has no effect; the weight of the distance to the teacher is %g, as published", WEIGHT
            )
        template = self.sentence(TEMPLATES)
        target = teacher.text_features(self.text_encoder, [[fill(template, n) for n in classnames]], self.clip)[0]
        shape = (len(classnames), LENGTH) if options.csc and not options.ctx_init else (LENGTH,)
        context = word_vectors(self.clip, PHRASE) if options.ctx_init else random_prompt(*shape, self.shape.text_width)
        features = F.normalize(target, dim=-1)
        self.prompt_learner = ClassAwarePrompts(context, features, options.layer)
        self.register_buffer("teacher_text", features, persistent=False)
        self.weight = WEIGHT
        sentences = [fill(SENTENCES.get(self.dataset, "{}."), name) for name in classnames]
        self.tokens = tokenize_texts(sentences, n_ctx=LENGTH, clip_model=self.clip)

    @property
    def fixed_classes(self) -> str:
        """Reason why the model takes no other class names; "" if it takes any."""
        return "class-specific contexts" if self.get_parameter("prompt_learner.ctx").dim() == 3 else ""

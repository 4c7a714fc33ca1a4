"""KgCoOp: CoOp whose class features stay close to those of a hand-written sentence (arXiv 2303.13283).

loss = cross entropy + W (1 - mean over classes cos(w, w0)), w the class features, w0 the frozen CLIP's of the sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from prompting import teacher
from prompting.clip.templates import fill
from prompting.heads import cosine_logits
from prompting.methods.base import CosineCLIP
from prompting.methods.contexts import ContextOptions, learned_contexts
from prompting.ot.checks import check_choice

PHRASE = "a photo of a"
TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}  # where they differ from CoOp's


@dataclass(frozen=True)
class KgCoOpOptions(ContextOptions):
    """Settings of KgCoOp.

    Raises:
        ValueError: a class name that is not at the end; the published code ignores other positions.
    """

    ctx_init: bool = False  # initial words "a photo of a", so that b = 4
    alpha: float = 1.0  # has no effect
    w: float = 1.0  # weight of the distance to the teacher; the paper and the published scripts take 8

    def __post_init__(self) -> None:
        check_choice("class_token_position", self.class_token_position, ("end",))


class KgCoOp(CosineCLIP[KgCoOpOptions]):
    """CLIP with a learned context, whose class features stay close to the frozen CLIP's."""

    name = "KgCoOp"
    options_class = KgCoOpOptions

    def build(self, classnames: Sequence[str], options: KgCoOpOptions) -> None:
        starts = [PHRASE] if options.ctx_init else []
        self.prompt_learner, self.tokens = learned_contexts(options, None, classnames, self.clip, starts)
        sentences = [fill(self.sentence(TEMPLATES), name) for name in classnames]
        target = teacher.text_features(self.text_encoder, [sentences], self.clip)[0]
        self.register_buffer("teacher_text", target, persistent=False)  # w0 (K, D)
        self.weight = options.w

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross entropy, the distance of the class features to the teacher's, and the logits."""
        image, text = self.features(images)
        logits = cosine_logits(image, text, self.logit_scale)
        distance = teacher.cosine_distance(text, self.get_buffer("teacher_text"))
        return {"ce": F.cross_entropy(logits, labels), "knowledge": self.weight * distance}, logits

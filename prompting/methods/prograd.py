"""ProGrad: CoOp whose gradient never opposes the gradient of a distance to zero-shot CLIP (arXiv 2205.14865).

For each learned tensor, with the gradients a of the cross entropy and b of the distance, a step follows a if
a . b >= 0, else a - LAMBDA (a . b) b / |b|^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompting import teacher
from prompting.clip import tokenize_prompts, word_vectors
from prompting.clip.templates import fill
from prompting.clip.tokens import PLACEHOLDER
from prompting.heads import cosine_logits
from prompting.learners import TextPrompts
from prompting.methods.base import CosineCLIP
from prompting.methods.contexts import ContextOptions, learned_contexts
from prompting.ot.checks import check_choice, check_number

TEMPLATES = {  # where they differ from CoOp's
    "OxfordPets": "a type of pet, a photo of a {}.",
    "OxfordFlowers": "a type of flower, a photo of a {}.",
    "FGVCAircraft": "a type of aircraft, a photo of a {}.",
    "DescribableTextures": "a texture of {}.",
    "Food101": "a type of food, a photo of {}.",
}


@dataclass(frozen=True)
class ProGradOptions(ContextOptions):
    """Settings of ProGrad.

    Raises:
        ValueError: a class name that is not at the end (the published code cannot run it), another loss, or a
            temperature that is not positive.
    """

    ctx_init: bool = False  # initial words: those of the data set's sentence before the class name
    name: str = ""  # name of the loss: "prograd", or "" for the same
    gm: bool = False  # has no effect
    alpha: float = 0.0  # has no effect
    t: float = 1.0  # temperature of the distance to zero-shot CLIP
    lambda_: float = 1.0  # fraction of the opposing component that is removed from the gradient

    def __post_init__(self) -> None:
        check_choice("class_token_position", self.class_token_position, ("end",))
        check_choice("name", self.name, ("", "prograd"))
        check_number("t", self.t, minimum=0.0, strict=True)


class ProGrad(CosineCLIP[ProGradOptions]):
    """CLIP with a learned context, whose steps do not oppose zero-shot CLIP."""

    name = "ProGrad"
    options_class = ProGradOptions

    def build(self, classnames: Sequence[str], options: ProGradOptions) -> None:
        template, length = self.sentence(TEMPLATES), options.n_ctx
        self.prompt_learner, self.tokens = learned_contexts(options, None, classnames, self.clip)
        if options.ctx_init:
            words = words_before_name(template, length)
            zeros = length - len(words.split())
            vectors = word_vectors(self.clip, words, length - zeros)
            start = torch.cat([vectors.new_zeros(zeros, self.shape.text_width), vectors])
            self.prompt_learner = TextPrompts(None, length, self.shape.text_width, init=[start])
            prefix = " ".join([PLACEHOLDER] * zeros + [words])
            self.tokens = tokenize_prompts(classnames, n_ctx=length, prefixes=[prefix], clip_model=self.clip)
        sentences = [fill(template, name) for name in classnames]
        target = teacher.text_features(self.text_encoder, [sentences], self.clip)[0]
        self.register_buffer("teacher_text", target, persistent=False)  # w0 (K, D)
        self.temperature = options.t

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross entropy "xe", the distance "kl" to zero-shot CLIP, and the logits."""
        logits = self(images)
        frozen = teacher.image_features(self.image_encoder, images)
        target = cosine_logits(frozen, self.get_buffer("teacher_text"), self.logit_scale)
        t = self.temperature
        # Cross entropy with the teacher's probabilities: KL plus the teacher's entropy, which has no gradient.
        distance = t**2 * F.cross_entropy(logits / t, F.softmax(target / t, dim=-1))
        return {"xe": F.cross_entropy(logits, labels), "kl": distance}, logits

    def training_loss(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropy and the logits; the distance only enters ``project``, in the trainer's step."""
        terms, logits = self.loss_terms(*batch)
        return terms["xe"], logits


def words_before_name(template: str, length: int) -> str:
    """Return a sentence's words before the class name, at most ``length`` (counted by blanks, as published).

    Raises:
        ValueError: the class name is not at the end, or has not 1 to ``length`` words before it.
    """
    words = template.removesuffix(" {}.")
    count = len(words.split())
    if "{}" in words or not 0 < count <= length:
        raise ValueError(
            f"ctx_init is True, but the sentence {template!r} has not 1 to {length} words before '{{}}.' at its end; "
            "set DATASET.TEMPLATE, n_ctx, or ctx_init to False"
        )
    return words


def project(special: Tensor, general: Tensor, weight: float = 1.0) -> Tensor:
    """Return ``special`` without its component against ``general``: a - weight (a . b) b / |b|^2 if a . b < 0, else a.

    Args:
        special: a, the gradient of the cross entropy for one learned tensor.
        general: b, the gradient of the distance to zero-shot CLIP, of the same shape.
        weight: LAMBDA.

    Source: ProGrad (arXiv 2205.14865).
    """
    dot = (special * general).sum()
    return special - weight * dot / general.square().sum() * general if dot < 0 else special

"""PromptSRC: IVLP's prompts, kept close to the frozen CLIP and averaged over epochs (arXiv 2307.06948).

loss = cross entropy + TEXT_LOSS_WEIGHT mean|w - w0| + IMAGE_LOSS_WEIGHT mean|f - f0| + mean KL(p0 || p) / K, with unit
features w of classes and f of images and class probabilities p of images; w0, f0 and p0 are the frozen CLIP's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompting import teacher
from prompting.clip.templates import ENSEMBLE, fill
from prompting.heads import cosine_logits
from prompting.methods.ivlp import IVLP, IVLPOptions
from prompting.ot.checks import check_choice, check_count

TEMPLATES: Sequence[str] = ENSEMBLE[:60]  # the teacher's sentences, the same for every data set


@dataclass(frozen=True)
class PromptSRCOptions(IVLPOptions):
    """Settings of PromptSRC.

    Raises:
        ValueError: no text prompts, a deviation below 1, or an unknown reading.
    """

    n_ctx_vision: int = 4
    n_ctx_text: int = 4
    text_loss_weight: int = 25
    image_loss_weight: int = 10
    gpa_mean: int = 15  # epoch with the greatest weight in the mean over epochs
    gpa_std: int = 1  # standard deviation of the weights, in epochs
    reading: str = "released"  # divergence divided by B K; or corrected, by B

    def __post_init__(self) -> None:
        check_choice("reading", self.reading, ("released", "corrected"))
        check_count("prompt_depth_text", self.prompt_depth_text)
        check_count("gpa_std", self.gpa_std)


class PromptSRC(IVLP):
    """CLIP with independent text and visual prompts, whose features and logits stay close to those without prompts."""

    name = "PromptSRC"
    options_class = PromptSRCOptions

    def build(self, classnames: Sequence[str], options: PromptSRCOptions) -> None:  # type: ignore[override]
        super().build(classnames, options)
        sentences = [[fill(template, name) for name in classnames] for template in TEMPLATES]
        # The mean is taken over features that are not normalised, as published.
        target = teacher.text_features(self.text_encoder, sentences, self.clip).mean(0)
        self.register_buffer("teacher_text", F.normalize(target, dim=-1), persistent=False)  # w0 (K, D)
        whole = len(classnames) if options.reading == "corrected" else 1
        self.weights = {"text": options.text_loss_weight, "image": options.image_loss_weight, "logits": whole}

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross entropy, the distances of texts, images and logits to the teacher's, and the logits."""
        image, text = self.features(images)
        frozen = teacher.image_features(self.image_encoder, images)
        target = self.get_buffer("teacher_text")
        logits = cosine_logits(image, text, self.logit_scale)
        return {
            "ce": F.cross_entropy(logits, labels),
            "text": self.weights["text"] * teacher.absolute_distance(text, target),
            "image": self.weights["image"] * teacher.absolute_distance(image, frozen),
            "logits": self.weights["logits"]
            * teacher.divergence(logits, cosine_logits(frozen, target, self.logit_scale)),
        }, logits


class GaussianMean:
    """Running mean of tensors over epochs 1 to e, weighted by a normal density of the epoch, in float32.

    Mean_e = Mean_(e-1) + s_e (tensor_e - Mean_(e-1)),  s_e = g_e / (g_1 + .. + g_e),
    g_i = exp(-(i - mean)^2 / (2 std^2)).

    Its only state is the last mean, and it does not need the number of epochs: a resumed run continues exactly.

    Args:
        mean: epoch with the greatest weight.
        std: standard deviation in epochs, > 0.

    Attributes:
        tensors: the mean, by name; empty before the first epoch.

    Source: PromptSRC (arXiv 2307.06948), Gaussian weighted prompt aggregation.
    """

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Add the tensors after ``epoch``, counted from 1."""
        epochs = torch.arange(1, epoch + 1, dtype=torch.float64)
        share = torch.softmax(-((epochs - self.mean) ** 2) / (2 * self.std**2), 0)[-1].item()
        for name, tensor in tensors.items():
            value = tensor.detach().float()
            self.tensors[name] = torch.lerp(self.tensors.get(name, value), value, share)

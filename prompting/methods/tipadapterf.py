"""Tip-Adapter-F: a cache of few-shot image features whose keys are fine-tuned (arXiv 2207.09519)."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting.clip import tokenize_texts
from prompting.clip.templates import fill, templates_for
from prompting.heads import cosine_logits
from prompting.learners import Prompts
from prompting.methods.base import Options, PromptedCLIP
from prompting.ot.checks import check_count, is_exporting


@dataclass(frozen=True)
class TipAdapterFOptions(Options):
    """Settings of Tip-Adapter-F, named as in the released files."""

    init_beta: float = 1.0  # sharpness of the cache's weights
    init_alpha: float = 1.17  # weight of the cache's logits
    augment_epoch: int = 10  # number of augmentations of an image whose mean feature is its initial key
    search_hp: bool = True  # search beta and alpha on the validation images after training
    search_scale: Sequence[float] = (7, 3)  # largest beta and alpha of the search
    search_step: Sequence[int] = (200, 20)  # number of values of beta and alpha

    def __post_init__(self) -> None:
        check_count("augment_epoch", self.augment_epoch)
        for name, kind, words in (("search_scale", (int, float), "finite"), ("search_step", int, "whole")):
            pair = getattr(self, name)
            if not (
                isinstance(pair, (list, tuple))
                and len(pair) == 2
                and all(isinstance(value, kind) and 0 < value < math.inf for value in pair)
            ):
                raise ValueError(f"{name} is {pair!r:.100}; allowed: two {words} numbers above 0, of beta and alpha")


class Cache(nn.Module):
    """The cache: learned keys ``weight`` (n, D) of n images, their classes, beta and alpha, all in the state dict.

    Args:
        width: D.
        classnames: names of the K classes to score.
        beta, alpha: initial values.
    """

    values: Tensor  # (n, K), one-hot; zeros for a class that is not scored

    def __init__(self, width: int, classnames: Sequence[str], beta: float, alpha: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(0, width))
        self.register_buffer("values", torch.zeros(0, len(classnames)), persistent=False)
        self.classnames, self.beta, self.alpha = list(classnames), beta, alpha
        self.resize([], self.classnames)

    def resize(self, labels: Sequence[int], classnames: Sequence[str]) -> None:
        """Allocate zero keys for n images, given their labels and the class name of each label."""
        self.labels, self.label_names = list(labels), list(classnames)
        column = {name: k for k, name in enumerate(self.classnames)}
        same = self.label_names == self.classnames  # else match classes by name; -1 is a class that is not scored
        columns = self.labels if same else [column.get(self.label_names[label], -1) for label in self.labels]
        index = torch.tensor(columns, dtype=torch.int64, device=self.weight.device)
        self.values = F.one_hot(index + 1, len(self.classnames) + 1)[:, 1:].float()
        self.weight.data = self.weight.data.new_zeros(len(self.labels), self.weight.shape[1])

    def get_extra_state(self) -> Tensor:
        """Return labels, class names, beta and alpha as the bytes of a JSON text: a checkpoint holds tensors only."""
        state = {"labels": self.labels, "classnames": self.label_names, "beta": self.beta, "alpha": self.alpha}
        return torch.frombuffer(bytearray(json.dumps(state), "utf-8"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore labels, class names, beta and alpha, and allocate the keys of another cache."""
        found = json.loads(bytes(state.cpu().tolist()))
        if (found["labels"], found["classnames"]) != (self.labels, self.label_names):
            self.resize(found["labels"], found["classnames"])
        self.beta, self.alpha = found["beta"], found["alpha"]


class TipAdapterF(PromptedCLIP[TipAdapterFOptions]):
    r"""CLIP whose logits for a unit image feature f are those of its text classifier w and those of a cache:

    .. math:: 100\, f \cdot w + \alpha \sum_i e^{-\beta (1 - f \cdot k_i)} v_i

    with a learned key k_i and a one-hot label v_i for each training image. Keys are initialised with image features
    (``fill_cache``) and not normalised in training; no gradient passes through CLIP. Classes without an image in the
    cache have CLIP's logits.
    """

    name = "TipAdapterF"
    options_class = TipAdapterFOptions
    prompt_learner = staticmethod(Prompts)
    fixed_scale = 100.0  # the published constant
    classifier: Tensor | None

    def build(self, classnames: Sequence[str], options: TipAdapterFOptions) -> None:
        self.options = options
        templates = [self.template] if self.template else templates_for(self.dataset)
        texts = [[fill(template, name) for name in classnames] for template in templates]
        self.tokens = tokenize_texts(texts, clip_model=self.clip)
        self.adapter = Cache(self.shape.embed_dim, classnames, options.init_beta, options.init_alpha)
        self.released_names = {"adapter.weight": "weight"}
        self.register_buffer("classifier", None, persistent=False)

    @property
    def fixed_classes(self) -> str:
        """Reason why the model takes no other class names: its cache holds images of the training classes only."""
        return "a cache of images"

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Return the unit features (B, D) of ``images`` (B, 3, H, W)."""
        return F.normalize(self.image_encoder(images).prompt[:, 0].float(), dim=-1)

    @torch.no_grad()
    def class_features(self) -> Tensor:
        """Return w (K, D), the mean of the unit features of all templates, computed once."""
        known = self.classifier
        if known is None or known.device != self.logit_scale.device:
            known = F.normalize(self.text_encoder(self.tokens).prompt.float(), dim=-1).mean(1)
            if not is_exporting():  # never keep a traced tensor
                self.classifier = known
        return known

    def clip_logits(self, features: Tensor) -> Tensor:
        """Return 100 f w, (B, K)."""
        return cosine_logits(features, self.class_features(), self.score_scale)

    def cache_logits(self, affinity: Tensor, beta: float) -> Tensor:
        """Return sum_i exp(-beta (1 - affinity_i)) v_i, (B, K), for ``affinity`` f k_i, (B, n)."""
        return (beta * (affinity - 1)).exp() @ self.adapter.values

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, 3, H, W)."""
        features = self.image_features(images)
        clip = self.clip_logits(features)  # may run the text tower, which needs autocast
        with torch.autocast(features.device.type, enabled=False):
            cache = self.cache_logits(features @ self.adapter.weight.T, self.adapter.beta)
            return clip + self.adapter.alpha * cache

    @torch.no_grad()
    def fill_cache(self, passes: Iterable[Iterable[Tensor]]) -> None:
        """Set each key to the mean feature of an image over its augmentations, normalised after the mean.

        Args:
            passes: for each augmentation, the batches (B, 3, H, W) of all n images, in the order of ``adapter.resize``.
        """
        encoded = [torch.cat([self.image_encoder(batch).prompt[:, 0].float() for batch in one]) for one in passes]
        self.adapter.weight.copy_(F.normalize(torch.stack(encoded).mean(0), dim=-1))

    @torch.no_grad()
    def search(self, features: Tensor, labels: Tensor) -> tuple[float, float, float]:
        """Set beta and alpha to the grid point with the best accuracy; of equal ones, the smallest beta, then alpha.

        The values are 0.1 + i (scale - 0.1) / steps for i < steps, from ``search_scale`` and ``search_step``.

        Args:
            features: unit features (B, D) of all validation images.
            labels: (B,).

        Returns:
            beta, alpha and their accuracy in percent.
        """
        clip, affinity = self.clip_logits(features), features @ self.adapter.weight.T
        grid = zip(self.options.search_scale, self.options.search_step)
        betas, alphas = ([0.1 + i * (scale - 0.1) / steps for i in range(steps)] for scale, steps in grid)
        best = (self.adapter.beta, self.adapter.alpha, 0.0)
        for beta in betas:
            cache = self.cache_logits(affinity, beta)
            for alpha in alphas:
                accuracy = 100 * ((clip + alpha * cache).argmax(1) == labels).float().mean().item()
                if accuracy > best[2]:
                    best = (beta, alpha, accuracy)
        self.adapter.beta, self.adapter.alpha = best[:2]
        return best

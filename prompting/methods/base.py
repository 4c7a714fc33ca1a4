"""Base classes of the methods: a frozen CLIP, learned prompts, and a state dict of the learned tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting.checkpoint import learned_state, load_learned
from prompting.clip import ClipShape, PromptTokens, TextEncoder, VisionEncoder, load_clip
from prompting.clip.templates import template_for
from prompting.heads import cosine_logits
from prompting.learners import ClassContexts, Prompts
from prompting.ot.checks import is_exporting

T = TypeVar("T")
METHODS: "dict[str, type[PromptedCLIP[Any]]]" = {}
"""Model classes by registry name; a subclass of ``PromptedCLIP`` with a ``name`` adds itself."""

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Options:
    """Settings of a method. In a config file, field ``n_ctx`` is key ``N_CTX`` of the method's node."""

    without_config_key: ClassVar[tuple[str, ...]] = ()
    for_prediction: ClassVar[dict[str, Any]] = {}  # overrides for a model that is not trained
    for_other_classes: ClassVar[dict[str, Any]] = {}  # overrides for class names that are not those of the training

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the fields that config files set, with their defaults."""
        return {field.name: field.default for field in fields(cls) if field.name not in cls.without_config_key}

    def check_numbers(self) -> None:
        """Raise ValueError if a value has another type than its default, or is NaN, infinite or negative."""
        for field in fields(self):
            name, value, kind = field.name, getattr(self, field.name), type(field.default)
            if kind in KINDS and not (value is None and "None" in str(field.type)):
                types = (int, float) if kind is float else kind
                if not isinstance(value, types) or isinstance(value, bool) != (kind is bool):
                    raise ValueError(f"{name} is {value!r:.100}; allowed: {KINDS[kind]}")
            if isinstance(value, (int, float)) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; allowed: finite numbers from 0")


OptionsT = TypeVar("OptionsT", bound=Options)


class PromptedCLIP(nn.Module, Generic[OptionsT]):
    """A frozen CLIP with learned prompts; the base class of every method.

    A method sets ``name`` and ``options_class`` and creates its modules in ``build``. The state dict holds the learned
    tensors only, under the names of released checkpoints: no frozen weights and no class names.

    Args:
        clip_model: an open_clip model, a model of OpenAI's ``clip`` package, or a name that ``load_clip`` takes.
        classnames: K class names.
        options: the method's settings; None takes their defaults.
        dataset: registry name of the data set, for methods whose published prompts depend on it.
        template: sentence with ``{}`` for the class name; "" takes that of the data set.
        all_reduce_sum: sums a tensor over the processes that share a batch; None in a single process.

    Raises:
        ValueError: options that do not fit each other or the CLIP.
    """

    name: ClassVar[str] = ""
    """Registry name of the method; "" for an abstract class."""
    options_class: ClassVar[type[Options]]
    prompt_learner: Callable[[], Prompts]
    tokens: PromptTokens
    chunks_text: bool = False  # whether ``forward`` splits the classes into chunks, so that no memory plan is needed
    note: str = ""  # deviation from the published method, which tables of results print
    transports_patches: bool = False  # whether the visual features of the prompt level are O patches
    fixed_scale: float | None = None  # factor of the cosines in the logits; None is 1 / tau

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            METHODS[cls.name] = cls

    def __init__(
        self,
        clip_model: nn.Module | str,
        classnames: Sequence[str],
        options: OptionsT | None = None,
        *,
        dataset: str = "",
        template: str = "",
        all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.clip = load_clip(clip_model)
        self.shape = ClipShape.from_model(self.clip)
        self.text_encoder = TextEncoder(self.clip)
        self.image_encoder = VisionEncoder(self.clip)
        self.released_names: dict[str, str] = {}  # name of a learned tensor here -> its name in released checkpoints
        self.dataset, self.template, self.all_reduce_sum = dataset, template, all_reduce_sum
        self._cache: tuple[Any, Any] = (None, None)
        options = cast(OptionsT, self.options_class()) if options is None else options
        options.check_numbers()
        self.build(classnames, options)

    def build(self, classnames: Sequence[str], options: OptionsT) -> None:
        """Create ``prompt_learner``, ``tokens`` and the other modules of the method."""
        raise NotImplementedError

    @property
    def fixed_classes(self) -> str:
        """Reason why the model takes no other class names, such as "class-specific contexts"; "" if it takes any."""
        learned = any(isinstance(module, ClassContexts) for module in self.modules())
        return "class-specific contexts" if learned else ""

    @property
    def logit_scale(self) -> Tensor:
        """1 / tau, CLIP's learned inverse temperature."""
        return self.clip.get_parameter("logit_scale").exp()

    @property
    def score_scale(self) -> Tensor | float:
        """Factor of the cosines in the logits: 1 / tau, or a constant as in the published code of some methods."""
        return self.logit_scale if self.fixed_scale is None else self.fixed_scale

    def training_text(self) -> list[tuple[PromptTokens, Prompts]]:
        """Return the inputs of every text-tower call in a training step, for ``prompting.memory``.

        The call that encodes the K classes is the first.
        """
        return [(self.tokens, self.prompt_learner())]

    def train(self, mode: bool = True) -> "PromptedCLIP[OptionsT]":
        """Set training or evaluation mode; the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the training loss by name, with their weights, and the logits (B, K).

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B,) int64.
        """
        logits = self(images)
        return {"ce": F.cross_entropy(logits, labels)}, logits

    def training_loss(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training loss, the sum of ``loss_terms(*batch)``, and the logits (B, K)."""
        terms, logits = self.loss_terms(*batch)
        return torch.stack(list(terms.values())).sum(), logits

    def sentence(self, templates: Mapping[str, str] | None = None) -> str:
        """Return the sentence with ``{}`` for a class name: the given one, or that of the data set.

        Args:
            templates: the method's sentences by data set, where they differ from CoOp's.
        """
        return self.template or (templates or {}).get(self.dataset) or template_for(self.dataset)

    def cached(self, compute: Callable[[], T]) -> T:
        """Return ``compute()``; in evaluation, compute once and keep the result until a learned tensor changes."""
        if is_exporting():  # the exported program computes the result itself
            return compute()
        if torch.is_grad_enabled():
            self._cache = (None, None)  # drop it in training: writes through ``.data`` do not bump ``_version``
            return compute()
        key = [(tensor.data_ptr(), tensor._version) for tensor in self.parameters()]
        if self._cache[0] != key:
            self._cache = (key, compute())
        return self._cache[1]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the learned tensors under the names of released checkpoints."""
        return {name: tensor.detach() for name, tensor in learned_state(self, self.released_names).items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:
        """Copy the learned tensors from ``state_dict`` (see ``prompting.checkpoint.load_learned``)."""
        load_learned(self, state_dict, names=self.released_names)


class CosineCLIP(PromptedCLIP[OptionsT]):
    """A prompted CLIP whose logits are cosines of one image feature and one feature per class.

    The features of N sentences per class (leading axis of ``tokens``) are normalised, then averaged.
    """

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return the class features (K, D)."""
        text = self.text_encoder(self.tokens, prompts.text, prompts.deep_text, adapters=prompts.text_adapters)
        return F.normalize(text.prompt, dim=-1).mean(1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, D) of ``images``, of any length, and the class features (K, D)."""
        prompts = self.prompt_learner()
        text = self.cached(lambda: self.class_features(prompts))
        image = self.image_encoder(images, prompts.visual, prompts.deep_visual, adapters=prompts.visual_adapters)
        return image.prompt[:, 0], text

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits cos(image, class) / tau, (B, K), of ``images`` (B, 3, H, W)."""
        return cosine_logits(*self.features(images), self.score_scale)

"""A trained run as a classifier of images: class names and probabilities for paths, images or tensors.

    from prompting.classifier import Classifier

    classifier = Classifier.load("output/first")
    for name, probability in classifier("photo.jpg").top(3)[0]:
        print(f"{name}: {probability:.1%}")

Neither the checkout nor the training images are needed.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union, cast

import torch
from PIL import Image
from torch import Tensor

from prompting.checkpoint import check_classes, learned_state, load_learned
from prompting.clip import checkpoint_file, load_clip
from prompting.clip.classnames import check_features, check_tokens
from prompting.clip.templates import template_for
from prompting.images import Preprocess, read_image
from prompting.methods import METHODS, PromptedCLIP
from prompting.ot.checks import check_choice, check_count, first_non_finite
from prompting.precision import Precision, find_device
from prompting.ranking import Predictions
from prompting.run_folder import ModelSettings, checkpoint_path, read_checkpoint, read_run

ImageLike = Union[str, "os.PathLike[str]", Image.Image, Tensor]
"""A path, a PIL image, or a tensor (3, H, W): uint8 pixels of any size, or floats that are already preprocessed."""


class Classifier:
    """A prompted CLIP with its class names and the preprocessing of its images.

    Class features are computed on construction; calls change nothing, so that threads can share a classifier. Create
    one with :meth:`load`.

    Args:
        model: the model, on its device; it is set to evaluation mode.
        settings: the model's settings; ``settings.write`` makes a run's folder that loads the same model.
        precision: precision of the model.
    """

    def __init__(self, model: PromptedCLIP[Any], settings: ModelSettings, precision: Precision) -> None:
        self.model, self.settings, self.precision = model.eval(), settings, precision
        self.preprocess = Preprocess.from_json(settings.images)
        self._score(torch.zeros(1, 3, *self.preprocess.size))  # computes and keeps the class features

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        epoch: int | None = None,
        classnames: Sequence[str] | None = None,
        backbone: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> "Classifier":
        """Return the classifier of a run.

        Args:
            run: the run's output folder, with ``run.json`` and the checkpoints, or the folder of an evaluation.
            epoch: the epoch to load; None takes the best epoch on validation if it was kept, else the last one.
            classnames: class names to use instead of those of the run.
            backbone: name or file of the CLIP; None takes that of the run.
            device: device of the model; None takes a GPU if there is one.
            precision: auto, fp32, amp, fp16 or bf16; None takes that of the run.

        Returns:
            The classifier.

        Raises:
            FileNotFoundError: there is no such run, checkpoint or CLIP.
            ValueError: a damaged file, an unknown method, or class names that the method cannot take.
        """
        settings = _settings(run)
        try:
            check_choice("method", settings.method, tuple(METHODS))
        except ValueError as error:
            remedy = "a method from elsewhere: import its file first, or train.py --eval-only --plugin FILE"
            raise ValueError(f"{error} ({remedy})") from None
        chosen = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        resolved = Precision.resolve(precision or settings.precision, chosen)
        if backbone:
            name, moved = os.fspath(backbone), checkpoint_file(os.fspath(backbone))
            settings = replace(settings, backbone=settings.backbone if moved else name, backbone_file=moved)
        file = settings.backbone_file
        try:
            clip = load_clip(file if Path(file).is_file() else settings.backbone)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"the CLIP of {run}: {error}; name its file with backbone (--backbone FILE)") from error
        try:
            Preprocess.from_json(settings.images)  # refuses wrong values
            model = _build(settings, clip)
            part = model.get_submodule(settings.saved_part)
            if not settings.checkpoint and learned_state(model):
                raise ValueError("it names no checkpoint")
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"the model of {run} cannot be built from its run.json: {error}") from error
        if settings.checkpoint:
            path = Path(run) / settings.checkpoint
            path = path if path.is_file() else checkpoint_path(path, epoch)
            settings = replace(settings, checkpoint=os.path.abspath(path))
            names = model.released_names if part is model else None
            load_learned(part, read_checkpoint(path), str(path), names)
            if model.fixed_classes:
                check_classes(path, settings.classnames)
        resolved.cast_(model.clip)
        classifier = cls(model.to(chosen), settings, resolved)
        return classifier if classnames is None else classifier.with_classes(classnames)

    def top(self, k: int = 5) -> Callable[[ImageLike | Sequence[ImageLike]], list[list[tuple[str, float]]]]:
        """Return the function from images to their k likeliest classes: ``self(images).top(k)``."""
        check_count("k", k)
        return lambda images: self(images).top(k)

    def with_classes(self, classnames: Sequence[str]) -> "Classifier":
        """Return a classifier with the same CLIP and learned prompts for other class names.

        Raises:
            ValueError: no names, names that the CLIP cannot tell apart, or a method that learns its classes.
        """
        if reason := self.model.fixed_classes:
            raise ValueError(
                f"{self.settings.method} cannot take other class names: it has {reason}, learned for the "
                f"{len(self.settings.classnames)} classes of the run"
            )
        names = tuple(classnames)
        if isinstance(classnames, str) or not names:
            raise ValueError(f"class names must be one or more non-empty strings; found {classnames!r}")
        check_tokens(names, refuse=True)  # also refuses names that are empty or given twice
        template = self.settings.template or template_for(self.settings.dataset)
        with self.precision.autocast():
            check_features(self.model.clip, names, template, refuse=True)
            settings = _for_classes(self.settings, names)
            model = _build(settings, self.model.clip)
        load_learned(model, learned_state(self.model))
        device = self.model.logit_scale.device
        return Classifier(model.to(device), settings, self.precision)

    @property
    def classnames(self) -> tuple[str, ...]:
        """The K class names."""
        return self.settings.classnames

    def __call__(self, images: ImageLike | Sequence[ImageLike], batch_size: int = 32) -> Predictions:
        """Score images.

        Args:
            images: one image or several: paths, PIL images, tensors (3, H, W), or one tensor (B, 3, H, W).
                Floating tensors are preprocessed images; uint8 tensors are pixels.
            batch_size: number of images that run through the model together.

        Returns:
            Predictions of B images; B = 1 for one image.

        Raises:
            FileNotFoundError, ValueError: a path that is no readable image, or a tensor of another shape.
            TypeError: an image of another type, such as an array.
        """
        check_count("batch_size", batch_size)
        single = isinstance(images, str) or not isinstance(images, Iterable) or getattr(images, "ndim", 0) == 3
        several = [cast(ImageLike, images)] if single else list(cast("Sequence[ImageLike]", images))
        batches = [several[i : i + batch_size] for i in range(0, len(several), batch_size)]
        scores = [self._score(torch.stack([self._tensor(image) for image in batch])) for batch in batches]
        return Predictions(torch.cat(scores) if scores else torch.zeros(0, len(self.classnames)), self.classnames)

    def _tensor(self, image: ImageLike) -> Tensor:
        """Return the preprocessed tensor (3, H, W) of one image."""
        if isinstance(image, Tensor):
            size = (3, *self.preprocess.size)
            if image.dtype == torch.uint8 and image.dim() == 3 and image.shape[0] == 3:
                return self.preprocess(Image.fromarray(image.permute(1, 2, 0).cpu().numpy()))
            if not image.is_floating_point() or tuple(image.shape) != size:
                found = f"{image.dtype} of shape {tuple(image.shape)}"
                raise ValueError(f"an image tensor is {found}; allowed: uint8 (3, H, W), or preprocessed floats {size}")
            return image.float()
        if not isinstance(image, (str, os.PathLike, Image.Image)):
            raise TypeError(f"an image is of type {type(image).__name__}; allowed: a path, a PIL image, or a tensor")
        return self.preprocess(image if isinstance(image, Image.Image) else read_image(image, self.preprocess.turn))

    @torch.no_grad()
    def _score(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of preprocessed images; raise ValueError if one is NaN or infinite."""
        with self.precision.autocast():
            scores = self.model(images.to(self.model.logit_scale.device)).float().cpu()
        if problem := first_non_finite([("scores", scores)]):
            raise ValueError(f"the model gives no probabilities: {problem}; try precision='fp32', or another epoch")
        return scores


def _settings(run: str | os.PathLike[str]) -> ModelSettings:
    """Return the settings of a run, or of the run that an evaluation loaded, with the evaluation's classes."""
    content = read_run(run)
    if not content.get("loaded_from"):
        return ModelSettings.read(run)
    try:
        loaded, data = os.path.abspath(content["loaded_from"]), content["config"]["DATASET"]
        changes = {"dataset": data["NAME"], "template": data.get("TEMPLATE", ""), "checkpoint": loaded}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the results.json of {run} is damaged: {type(error).__name__} {error}") from None
    trained = ModelSettings.read(Path(loaded).parent.parent)
    return replace(_for_classes(trained, tuple(content["classnames"])), **changes)


def _for_classes(settings: ModelSettings, names: tuple[str, ...]) -> ModelSettings:
    """Return the settings with other class names, and with the method's overrides if some were not in the training."""
    options = settings.options
    if set(names) - set(settings.classnames) and settings.method in METHODS:
        options = {**options, **METHODS[settings.method].options_class.for_other_classes}
    return replace(settings, classnames=names, options=options)


def _build(settings: ModelSettings, clip: Any) -> PromptedCLIP[Any]:
    """Return a run's model on a CLIP, with initial prompts and without the parts that only training needs."""
    method = METHODS[settings.method]
    options = method.options_class(**{**settings.options, **method.options_class.for_prediction})
    return method(clip, settings.classnames, options, dataset=settings.dataset, template=settings.template)

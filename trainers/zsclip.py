"""Zero-shot CLIP: hand-written sentences about each class, nothing learned (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from prompting.clip import tokenize_texts
from prompting.clip.templates import ENSEMBLE, fill, template_for
from prompting.learners import Prompts
from prompting.ot.checks import check_choice
from trainers.base import CosineCLIP, PromptTrainer


class CustomCLIP(CosineCLIP):
    """CLIP's own logits: the data set's sentence about each class, or the mean feature of 80 sentences."""

    node = "ZSCLIP"
    prompt_learner = staticmethod(Prompts)

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        check_choice("TRAINER.ZSCLIP.TEMPLATES", own.TEMPLATES, ("dataset", "ensemble"))
        templates = ENSEMBLE if own.TEMPLATES == "ensemble" else (self.template or template_for(self.dataset),)
        texts = [[fill(template, name) for name in classnames] for template in templates]
        self.tokens = tokenize_texts(texts, clip_model=self.clip)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Evaluates CLIP as it is; there is nothing to train."""

    model_name = "zero_shot"
    model_class = CustomCLIP
    defaults = {
        "PREC": "auto",
        "TEMPLATES": "dataset",  # DATASET.TEMPLATE, else the data set's hand-written one; or ensemble, CLIP's 80
    }

"""Zero-shot CLIP: hand-written sentences about each class, nothing learned (arXiv 2103.00020)."""

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.clip import tokenize_texts
from prompting.clip.templates import ENSEMBLE, fill, template_for
from prompting.learners import Prompts
from prompting.methods.base import CosineCLIP, Options
from prompting.ot.checks import check_choice


@dataclass(frozen=True)
class ZeroshotCLIPOptions(Options):
    """Settings of zero-shot CLIP.

    Raises:
        ValueError: unknown templates.
    """

    templates: str = "dataset"  # the data set's sentence; or ensemble, CLIP's 80

    def __post_init__(self) -> None:
        check_choice("templates", self.templates, ("dataset", "ensemble"))


class ZeroshotCLIP(CosineCLIP[ZeroshotCLIPOptions]):
    """CLIP's logits, from one sentence per class or from the mean feature of 80 sentences."""

    name = "ZeroshotCLIP"
    options_class = ZeroshotCLIPOptions
    prompt_learner = staticmethod(Prompts)

    def build(self, classnames: Sequence[str], options: ZeroshotCLIPOptions) -> None:
        ensemble = options.templates == "ensemble"
        templates = ENSEMBLE if ensemble else (self.template or template_for(self.dataset),)
        texts = [[fill(template, name) for name in classnames] for template in templates]
        self.tokens = tokenize_texts(texts, clip_model=self.clip)

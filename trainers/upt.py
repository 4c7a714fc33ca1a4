"""UPT: one shared prompt, from which a transformer of one block makes the prompts of both towers (arXiv 2210.07225).

Written from the paper; there is no public code to agree with. Chosen here, where the paper leaves it open: the shared
prompt has the width of the text tower and visual prompts are mapped from it linearly; heads as wide as CLIP's; a
feed-forward part as wide as the prompt, with GELU; deep prompts in both towers, made from a shared prompt a block by
the same transformer block; 4 vectors a tower and a depth of 9, as usual for deep prompts in this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from prompting.clip import tokenize_prompts
from prompting.learners import UnifiedPrompts
from trainers.base import CosineCLIP, PromptTrainer


class CustomCLIP(CosineCLIP):
    """CLIP with one text and one visual prompt, both made from a shared one."""

    node = "UPT"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        self.shape.check_depth(text=own.PROMPT_DEPTH, vision=own.PROMPT_DEPTH)
        lengths, widths = (own.N_CTX_TEXT, own.N_CTX_VISION), (self.shape.text_width, self.shape.vision_width)
        self.prompt_learner = UnifiedPrompts(*lengths, *widths, own.PROMPT_DEPTH)
        self.tokens = tokenize_prompts(classnames, n_ctx=own.N_CTX_TEXT, clip_model=self.clip)


@TRAINER_REGISTRY.register()
class UPT(PromptTrainer):
    """Learns a shared prompt and the network that makes text and visual prompts of it."""

    model_name = saved_part = "prompt_learner"
    model_class = CustomCLIP
    defaults = {"N_CTX_TEXT": 4, "N_CTX_VISION": 4, "PREC": "auto", "PROMPT_DEPTH": 9}

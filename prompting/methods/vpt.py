"""VPT: learned visual prompts, shallow or deep, with a fixed sentence (arXiv 2203.12119; on CLIP, as in MaPLe)."""

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.clip import tokenize_prompts
from prompting.learners import VisualPrompts
from prompting.methods.base import CosineCLIP, Options


@dataclass(frozen=True)
class VPTOptions(Options):
    """Settings of VPT."""

    n_ctx_vision: int = 2  # b, vectors of a prompt
    ctx_init: str = "a photo of a"  # fixed words before the class name
    prompt_depth_vision: int = 1  # number of blocks with prompts, the first included


class VPT(CosineCLIP[VPTOptions]):
    """CLIP with one learned visual prompt and the sentence "<ctx_init> <class name>."."""

    name = "VPT"
    options_class = VPTOptions

    def build(self, classnames: Sequence[str], options: VPTOptions) -> None:
        self.shape.check_depth(vision=options.prompt_depth_vision)
        width, depth = self.shape.vision_width, options.prompt_depth_vision
        self.prompt_learner = VisualPrompts(None, options.n_ctx_vision, width, depth)
        self.released_names = released_tower_names("prompt_learner", "image_encoder", depth)
        self.tokens = tokenize_prompts(classnames, n_ctx=0, prefixes=[options.ctx_init], clip_model=self.clip)


def released_tower_names(learner: str, tower: str, depth: int) -> dict[str, str]:
    """Return the released names of prompts that are stored inside a tower, ``<tower>.VPT`` and one per later block.

    ``learner`` is the path of the learner in the model, ``tower`` "image_encoder" or "text_encoder".
    """
    deep = "compound_prompts_text" if tower == "text_encoder" else "deep"
    blocks = {
        f"{learner}.{deep}.{i}": f"{tower}.transformer.resblocks.{i + 1}.VPT_shallow" for i in range(max(0, depth - 1))
    }
    return {f"{learner}.ctx": f"{tower}.VPT", **blocks}

"""CLIP-LoRA: low-rank updates of the attention projections in both towers (arXiv 2405.18541).

q = W x + bias + s B A dropout(x), k and v alike (and the output projection with "o" in PARAMS); A (r, d) and B (d, r)
are learned, s = alpha / sqrt(r). One sentence for all data sets, logits 100 cos(f, w), loss = cross entropy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting import teacher
from prompting.clip import tokenize_texts
from prompting.clip.adapters import BlockAdapter
from prompting.clip.templates import DEFAULT, fill
from prompting.learners import Prompts
from prompting.methods.base import CosineCLIP, Options
from prompting.ot.checks import check_choice, check_count

MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}  # names in released files
POSITIONS = ("all", "bottom", "mid", "up", "half-bottom", "half-up", "top3", "top")


def blocks_at(position: str, layers: int) -> range:
    """Return the indices of the blocks at a named position (one of ``POSITIONS``) of a tower with ``layers`` blocks."""
    third, half = layers // 3, layers // 2
    ends = {
        "all": (0, layers), "bottom": (0, third), "mid": (third, layers - third), "up": (layers - third, layers),
        "half-bottom": (0, half), "half-up": (half, layers), "top3": (max(layers - 3, 0), layers),
        "top": (layers - 1, layers),
    }  # fmt: skip
    return range(*ends[position])


@dataclass(frozen=True)
class CLIPLoRAOptions(Options):
    """Settings of CLIP-LoRA.

    Raises:
        ValueError: an unknown position, encoder, parameter or reading; a rank, alpha or dropout out of range.
    """

    r: int = 2  # rank
    alpha: int = 1
    dropout_rate: float = 0.25  # dropout of A's input, in training
    position: str = "all"  # blocks with updates
    encoder: str = "both"  # towers with updates
    params: tuple[str, ...] = ("q", "k", "v")  # projections with updates; o is that of the output
    n_iters: int = 500  # training steps for each shot; 0 trains OPTIM.MAX_EPOCH epochs
    reading: str = "released"  # or corrected: s = alpha / r, and logits by 1 / tau

    def __post_init__(self) -> None:
        check_choice("position", self.position, POSITIONS)
        check_choice("encoder", self.encoder, ("both", "text", "vision"))
        check_choice("reading", self.reading, ("released", "corrected"))
        if not self.params:
            raise ValueError(f"params is {self.params!r}; allowed: one or more of {', '.join(map(repr, MODULES))}")
        for name in self.params:
            check_choice("params", name, tuple(MODULES))
        check_count("r", self.r)
        check_count("alpha", self.alpha)
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate is {self.dropout_rate}; allowed: 0 or more, below 1")


class LowRank(nn.Module):
    """The update s B A dropout(x) of inputs x (..., d); A is initialised like a linear layer, B with zeros."""

    def __init__(self, width: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        self.w_lora_A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, width), a=5**0.5))
        self.w_lora_B = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update (..., d)."""
        return self.scale * F.linear(F.linear(self.dropout(x), self.w_lora_A), self.w_lora_B)


class LowRankUpdates(nn.Module):
    """Low-rank updates of both towers, by tower ("text", "visual"), block and projection.

    Args:
        towers: tower -> its width and number of blocks; a tower without an entry has no updates.
        options: rank, alpha, dropout, position, projections and reading.
    """

    def __init__(self, towers: Mapping[str, tuple[int, int]], options: CLIPLoRAOptions) -> None:
        super().__init__()
        scale = options.alpha / (options.r if options.reading == "corrected" else options.r**0.5)

        def updates(width: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {MODULES[p]: LowRank(width, options.r, scale, options.dropout_rate) for p in options.params}
            )

        self.towers = nn.ModuleDict()
        for tower, (width, layers) in towers.items():
            blocks = blocks_at(options.position, layers)
            self.towers[tower] = nn.ModuleDict({str(i): updates(width) for i in blocks})

    def forward(self) -> Prompts:
        """Return the adapters of both towers."""
        text, visual = (self._adapters(self.towers[t]) if t in self.towers else [] for t in ("text", "visual"))
        return Prompts(text_adapters=text, visual_adapters=visual)

    def _adapters(self, tower: Any) -> list[BlockAdapter | None]:
        """Return the adapters of a tower: of its input (None), then of each block up to the last with updates."""
        adapters: list[BlockAdapter | None] = [None] * (2 + max(map(int, tower)))
        for i, block in tower.items():
            q, k, v, o = (block[name] if name in block else None for name in MODULES.values())

            def projections(y: Tensor, updates: Sequence[nn.Module | None] = (q, k, v)) -> list[Tensor | None]:
                return [None if update is None else update(y) for update in updates]

            adapters[int(i) + 1] = BlockAdapter(projections, o)
        return adapters


class CLIPLoRA(CosineCLIP[CLIPLoRAOptions]):
    """CLIP with low-rank updates of its attention and the sentence "a photo of a <class name>."."""

    name = "CLIP_LoRA"
    options_class = CLIPLoRAOptions

    def build(self, classnames: Sequence[str], options: CLIPLoRAOptions) -> None:
        towers = {}
        if options.encoder != "vision":
            towers["text"] = self.shape.text_width, self.shape.text_layers
        if options.encoder != "text":
            self.shape.check_depth(vision=1)
            towers["visual"] = self.shape.vision_width, self.shape.vision_layers
        self.prompt_learner = LowRankUpdates(towers, options)
        self.released_names = {
            f"prompt_learner.{name}": released_name(name) for name, _ in self.prompt_learner.named_parameters()
        }
        sentences = [fill(self.template or DEFAULT, name) for name in classnames]
        self.tokens = tokenize_texts(sentences, clip_model=self.clip)
        fixed = None if "text" in towers else teacher.text_features(self.text_encoder, [sentences], self.clip)[0]
        self.register_buffer("fixed_text", fixed, persistent=False)  # (K, D), if the text tower has no updates
        self.options = options
        self.fixed_scale = 100.0 if options.reading == "released" else None  # the published constant

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return the class features (K, D)."""
        fixed = cast("Tensor | None", self.fixed_text)
        return super().class_features(prompts) if fixed is None else F.normalize(fixed, dim=-1)


def released_name(name: str) -> str:
    """Return an update's published name: transformer.resblocks.0.attn.q_proj.X for towers.text.0.q_proj.X."""
    _, tower, block, rest = name.split(".", 3)
    return f"{'visual.' if tower == 'visual' else ''}transformer.resblocks.{block}.attn.{rest}"

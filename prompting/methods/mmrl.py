"""MMRL: learned tokens of a shared space, projected into the deeper blocks of both towers (arXiv 2503.08497).

n tokens of width r are mapped to vectors that enter both towers: inserted (after CLS, after SOS) before the first block
of REP_LAYERS, replaced before the others. z = 100 cos(f, w), f the output at CLS; z_rep = 100 cos(f_rep, w), f_rep the
mean output at the inserted positions, projected by a learned matrix; z_fused = ALPHA z + (1 - ALPHA) z_rep.

loss = ALPHA CE(z) + (1 - ALPHA) CE(z_rep) + REG_WEIGHT [(1 - mean cos(f, f0)) + (1 - mean over classes cos(w, w0))]
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting import teacher
from prompting.clip import tokenize_texts
from prompting.clip.templates import fill
from prompting.heads import cosine_logits
from prompting.learners import Prompts
from prompting.learners.textual import check_positive, random_prompt
from prompting.methods.base import CosineCLIP, Options
from prompting.ot.checks import check_choice


@dataclass(frozen=True)
class MMRLOptions(Options):
    """Settings of MMRL.

    Raises:
        ValueError: rep_layers empty or not ascending from 2; alpha outside 0 to 1; an unknown task or reading.
    """

    without_config_key = ("seen",)
    for_other_classes = {"seen": False}

    alpha: float = 0.7  # weight of z in the loss and in z_fused
    reg_weight: float = 1.0
    rep_layers: tuple[int, ...] = ()  # blocks, counted from 1
    rep_dim: int = 512  # r
    n_rep_tokens: int = 5  # n
    reading: str = "released"  # factor 100 of the logits; or corrected, 1 / tau, which is 100 for OpenAI's CLIP
    task: str = "B2N"  # kind of evaluation: base-to-new, few-shot (FS) or cross-data-set (CD)
    seen: bool = True  # classes of the training, scored by z_fused; False: other classes, scored by z

    def __post_init__(self) -> None:
        check_choice("task", self.task, ("B2N", "FS", "CD"))
        check_choice("reading", self.reading, ("released", "corrected"))
        layers = list(self.rep_layers)
        whole = all(isinstance(layer, int) for layer in layers)
        if not layers or not whole or layers[0] < 2 or any(a >= b for a, b in zip(layers, layers[1:])):
            raise ValueError(
                f"rep_layers is {layers}; allowed: blocks in ascending order, counted from 1, not the first"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; allowed: 0 to 1")


class RepresentationTokens(nn.Module):
    """Tokens (n, r), and a linear map to each tower per listed block; the maps of a tower start as copies of one.

    Args:
        number: n.
        width: r.
        widths: d_l and d_v.
        layers: the blocks, counted from 1.
    """

    def __init__(self, number: int, width: int, widths: tuple[int, int], layers: Sequence[int]) -> None:
        super().__init__()
        check_positive("representation", number=number, width=width)
        self.layers = layers
        self.compound_rep_tokens = nn.Parameter(random_prompt(number, width))
        to_text, to_vision = (nn.Linear(width, outer) for outer in widths)
        self.compound_rep_tokens_r2vproj = nn.ModuleList([copy.deepcopy(to_vision) for _ in layers])
        self.compound_rep_tokens_r2tproj = nn.ModuleList([copy.deepcopy(to_text) for _ in layers])

    def forward(self) -> Prompts:
        """Return the vectors (1, n, d) of both towers; None for the blocks that are not listed."""
        text: list[Tensor | None] = [None] * (self.layers[-1] - 1)
        visual = list(text)
        for layer, to_text, to_vision in zip(
            self.layers, self.compound_rep_tokens_r2tproj, self.compound_rep_tokens_r2vproj
        ):
            text[layer - 2] = to_text(self.compound_rep_tokens).unsqueeze(0)
            visual[layer - 2] = to_vision(self.compound_rep_tokens).unsqueeze(0)
        return Prompts(deep_text=text, deep_visual=visual)


class MMRL(CosineCLIP[MMRLOptions]):
    """CLIP with representation tokens in both towers and fixed sentences."""

    name = "MMRL"
    options_class = MMRLOptions

    def build(self, classnames: Sequence[str], options: MMRLOptions) -> None:
        layers = options.rep_layers
        self.shape.check_depth(vision=1)
        if layers[-1] > (blocks := min(self.shape.text_layers, self.shape.vision_layers)):
            raise ValueError(f"rep_layers is {list(layers)}; both towers have blocks 1 to {blocks}")
        widths = self.shape.text_width, self.shape.vision_width
        self.prompt_learner = RepresentationTokens(options.n_rep_tokens, options.rep_dim, widths, layers)
        start = torch.randn(self.shape.vision_width, self.shape.embed_dim) * self.shape.vision_width**-0.5
        self.proj_rep = nn.Parameter(start)
        learned = [name for name, _ in self.prompt_learner.named_parameters()]
        self.released_names = {f"prompt_learner.{name}": f"representation_learner.{name}" for name in learned}
        self.released_names["proj_rep"] = "image_encoder.proj_rep"
        sentences = [fill(self.sentence(), name) for name in classnames]
        self.tokens = tokenize_texts(sentences, n_ctx=options.n_rep_tokens, clip_model=self.clip)
        target = teacher.text_features(self.text_encoder, [sentences], self.clip)[0]
        self.register_buffer("teacher_text", target, persistent=False)  # w0 (K, D)
        self.options = options
        self.fixed_scale = 100.0 if options.reading == "released" else None  # the published constant

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return the class features (K, D)."""
        block = self.options.rep_layers[0] - 1
        text = self.text_encoder(self.tokens, prompts.text, prompts.deep_text, insert_at=block)
        return F.normalize(text.prompt[:, 0], dim=-1)

    def all_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return f and f_rep (B, D) of ``images`` and the class features w (K, D)."""
        prompts = self.prompt_learner()
        text = self.cached(lambda: self.class_features(prompts))
        out = self.image_encoder(
            images, prompts.visual, prompts.deep_visual, return_tokens=True, token_projection=self.proj_rep
        )
        return out.prompt[:, 0], out.tokens[:, 0, -self.options.n_rep_tokens :].mean(1), text

    def all_logits(self, image: Tensor, rep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, z_rep and z_fused (B, K)."""
        scale, alpha = self.score_scale, self.options.alpha
        z, z_rep = cosine_logits(image, text, scale), cosine_logits(rep, text, scale)
        return z, z_rep, alpha * z + (1 - alpha) * z_rep

    @property
    def rep_share(self) -> float:
        """Weight of z_rep in the logits of an evaluation: 1 - alpha for classes of the training, 0 for others."""
        return 1 - self.options.alpha if self.options.seen else 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Return z_fused (B, K) of ``images`` (B, 3, H, W) for classes of the training, z for others."""
        z, _, fused = self.all_logits(*self.all_features(images))
        return fused if self.options.seen else z

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return both cross entropies, the distances of images and texts to the teacher's, and the fused logits."""
        image, rep, text = self.all_features(images)
        z, z_rep, fused = self.all_logits(image, rep, text)
        frozen = teacher.image_features(self.image_encoder, images)
        alpha, weight = self.options.alpha, self.options.reg_weight
        return {
            "ce_class": alpha * F.cross_entropy(z, labels),
            "ce_rep": (1 - alpha) * F.cross_entropy(z_rep, labels),
            "image": weight * teacher.cosine_distance(image, frozen),
            "text": weight * teacher.cosine_distance(text, self.get_buffer("teacher_text")),
        }, fused

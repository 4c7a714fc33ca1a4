"""ProDA: many text prompts whose class weights are modelled as one Gaussian (arXiv 2205.03340).

Written from parts of the paper's text and from public re-implementations: the authors' code could not be read
(docs/methods.md, "ProDA: known and chosen").

It differs from the re-implementations in two points. A step's prompts are drawn uniformly without repetition in every
step, so that resuming needs the random state only; theirs follow a permutation. The covariance has all entries, divided
by the number n of drawn prompts as in the bound; theirs has the entries within one dimension of D, divided by n + 1, to
save memory that the form used here does not need.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from prompting.clip import PromptTokens, tokenize_prompts, tokenize_texts
from prompting.clip.tokens import PLACEHOLDER
from prompting.learners import Prompts, TextPrompts
from prompting.methods.base import Options, PromptedCLIP


@dataclass(frozen=True)
class ProDAOptions(Options):
    """Settings of ProDA.

    Raises:
        ValueError: fewer than 2 prompts, or a batch of prompts that is not between 2 and N.
    """

    n_ctx: int = 16  # b, vectors of a context
    n: int = 32  # N contexts
    prompt_batch: int = 4  # contexts in one training step
    alpha: float = 0.1  # weight of the orthogonality loss

    def __post_init__(self) -> None:
        if not 2 <= self.prompt_batch <= self.n:
            raise ValueError(f"prompt_batch is {self.prompt_batch} of N = {self.n}; a covariance needs 2 to N prompts")


class ProDA(PromptedCLIP[ProDAOptions]):
    """CLIP with N learned contexts, whose class weights (K, N, D) are samples of one Gaussian over all weights."""

    name = "ProDA"
    options_class = ProDAOptions

    def build(self, classnames: Sequence[str], options: ProDAOptions) -> None:
        self.batch, self.alpha, length = options.prompt_batch, options.alpha, options.n_ctx
        self.prompt_learner = TextPrompts(options.n, length, self.shape.text_width)
        positions = prompt_positions(options.n)
        tokens = {
            position: tokenize_prompts(classnames, n_ctx=length, position=position, clip_model=self.clip)
            for position in dict.fromkeys(positions)
        }
        self.tokens = PromptTokens(
            *(torch.cat(fields) for fields in zip(*(tokens[position] for position in positions)))
        )
        # The contexts without a class name: SOS t_1 .. t_b . EOS
        nameless = tokenize_texts([" ".join([PLACEHOLDER] * length) + "."], clip_model=self.clip)
        self.nameless = nameless._replace(context=torch.arange(1, length + 1).view(1, 1, -1))

    @property
    def contexts(self) -> Tensor:
        """The learned contexts (N, b, d_l)."""
        return cast(Tensor, self.prompt_learner().text)

    def training_text(self) -> list[tuple[PromptTokens, Prompts]]:
        """Return the prompts of one step, and all N prompts without a class name."""
        contexts = self.contexts
        # The first prompts, with the class name at the front, take the most memory: they share the shortest prefix.
        few = PromptTokens(*(field[: self.batch] for field in self.tokens))
        return [(few, Prompts(contexts[: self.batch])), (self.nameless, Prompts(contexts))]

    def class_weights(self, contexts: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return the unit class weights (K, n, D) of n chosen prompts from ``contexts`` (N, b, d_l)."""
        tokens = self.tokens.select(slice(None), chosen)
        return F.normalize(self.text_encoder(tokens, contexts[chosen]).prompt.float(), dim=-1)

    def class_features(self) -> Tensor:
        """Return the mean class weights (K, D) over all prompts."""
        contexts = self.contexts
        starts = range(0, len(contexts), self.batch)  # all N at once would take N times the memory
        return torch.cat([self.class_weights(contexts, slice(i, i + self.batch)) for i in starts], 1).mean(1)

    def image_features(self, images: Tensor) -> Tensor:
        """Return the unit features (B, D) of ``images``."""
        return F.normalize(self.image_encoder(images).prompt[:, 0].float(), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits, z mu_c / tau, for ``images`` (B, 3, H, W): mu is the mean class weight."""
        weights = self.cached(self.class_features)
        image = self.image_features(images)
        with torch.autocast(image.device.type, enabled=False):
            return self.logit_scale * image @ weights.T

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the upper bound L_up for a random batch of prompts, alpha L_so of all prompts, and the mean logits
        (B, K)."""
        contexts = self.contexts
        chosen = torch.randperm(len(contexts))[: self.batch]
        weights = self.cached(lambda: self.class_weights(contexts, chosen))
        image = self.image_features(images)
        logits, spread = gaussian_logits(image, weights, labels, self.logit_scale)
        semantic = self.text_encoder(self.nameless, contexts).prompt[0]  # (N, D)
        bound = F.cross_entropy(logits + spread / 2, labels)
        return {"upper_bound": bound, "orthogonality": self.alpha * orthogonality(semantic)}, logits


def prompt_positions(number: int) -> list[str]:
    """Return the position of the class name in each of N prompts: a quarter front, a quarter middle, the rest end."""
    quarter = number // 4
    return ["front"] * quarter + ["middle"] * quarter + ["end"] * (number - 2 * quarter)


def gaussian_logits(image: Tensor, weights: Tensor, labels: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return mean and variance term of the logits under Gaussian class weights, the two parts of the upper bound.

    With weights w ~ N(mu, Sigma) of all classes jointly, and y the label, Jensen's inequality gives
    E_w[-ln softmax_y(z w / tau)] <= -ln softmax_y(z mu_c / tau + z' A_c z / (2 tau^2)),
    A_c = Sigma_cc + Sigma_yy - Sigma_cy - Sigma_yc. As Sigma is the covariance of the n samples, z' A_c z is the
    variance of z (w_c - w_y) over them, so Sigma, of (K D)^2 entries, is never formed.

    Args:
        image: z, unit image features (B, D).
        weights: n samples of the class weights (K, n, D).
        labels: y, (B,).
        scale: 1 / tau.

    Returns:
        z mu_c / tau (B, K), and z' A_c z / tau^2 (B, K), which is 0 at the label.

    Source: ProDA (arXiv 2205.03340), section 3.2.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = scale * torch.einsum("bd,knd->bkn", image.float(), weights.float())
        margins = logits - logits[torch.arange(len(labels)), labels].unsqueeze(1)
        return logits.mean(-1), margins.var(-1, unbiased=False)


def orthogonality(semantic: Tensor) -> Tensor:
    """Return L_so: the mean |cos| between the nameless features (n, D) of all pairs of different prompts, n >= 2.

    Source: ProDA (arXiv 2205.03340), section 3.3.
    """
    with torch.autocast(semantic.device.type, enabled=False):
        unit = F.normalize(semantic.float(), dim=-1)
        others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        return (unit @ unit.T)[others].abs().mean()

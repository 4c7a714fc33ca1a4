"""ProDA: many text prompts whose class weights are modelled as one Gaussian (arXiv 2205.03340).

Written from what could be read of the paper, which is not its whole text; its authors' code is not published. The
paper's: one Gaussian for the weights of all classes, estimated from prompts whose class names stand in front, in the
middle or at the end; the upper bound of the expected loss with the covariance term; the orthogonality between the
features of the prompts without a class name; the mean weight for evaluation.

As public re-implementations agree: 32 prompts of 16 vectors that start as N(0, 0.02); a quarter of them with the class
name in front, a quarter in the middle, the others at the end; 4 prompts a step for the bound, all of them for the
orthogonality (weight 0.1 in most); a prompt without a class name ends in a full stop; in training and in evaluation the
mean of the unit features of the prompts is not normalised again.

Chosen here, and different there: each step draws its prompts afresh, uniformly and without repetition, so that a run
resumes from the random state alone (there: in turn, along a permutation of all); the covariance has all its entries and
is divided by the number n of prompts drawn, as the bound is stated (there: only entries within one dimension of D,
divided by n + 1, to save memory; the form used here needs none).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from prompting.clip import PromptTokens, tokenize_prompts, tokenize_texts
from prompting.clip.tokens import PLACEHOLDER
from prompting.learners import Prompts, TextPrompts
from trainers.base import PromptedCLIP, PromptTrainer


class CustomCLIP(PromptedCLIP):
    """CLIP with N learned contexts, whose class weights (K, N, D) are samples of a Gaussian over all classes' weights.

    Raises:
        ValueError: fewer than 2 prompts, or a batch of prompts that is not between 2 and N.
    """

    node = "PRODA"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        if not 2 <= own.PROMPT_BATCH <= own.N:
            raise ValueError(
                f"TRAINER.PRODA.PROMPT_BATCH is {own.PROMPT_BATCH} and N {own.N}; a covariance needs 2 to N prompts"
            )
        self.batch, self.alpha = own.PROMPT_BATCH, own.ALPHA
        self.prompt_learner = TextPrompts(own.N, own.N_CTX, self.shape.text_width)
        places = prompt_positions(own.N)
        by_place = {
            place: tokenize_prompts(classnames, n_ctx=own.N_CTX, position=place, clip_model=self.clip)
            for place in dict.fromkeys(places)
        }
        self.tokens = PromptTokens(*(torch.cat(fields) for fields in zip(*(by_place[place] for place in places))))
        # The contexts without a class name: SOS t_1 .. t_b . EOS
        nameless = tokenize_texts([" ".join([PLACEHOLDER] * own.N_CTX) + "."], clip_model=self.clip)
        self.nameless = nameless._replace(context=torch.arange(1, own.N_CTX + 1).view(1, 1, -1))

    def training_text(self) -> list[tuple[PromptTokens, Prompts]]:
        """Return the prompts of one step, and the nameless ones of all N."""
        contexts = self.prompt_learner().text
        # Those with the class name in front, which come first, take the most memory: they share the least.
        few = PromptTokens(*(field[: self.batch] for field in self.tokens))
        return [(few, Prompts(contexts[: self.batch])), (self.nameless, Prompts(contexts))]

    def class_weights(self, contexts: Tensor, chosen: Tensor) -> Tensor:
        """Return the unit class weights (K, n, D) of the prompts ``chosen`` (n,) from ``contexts`` (N, b, d_l)."""
        tokens = PromptTokens(*(field[chosen] for field in self.tokens)).to(contexts.device)
        return F.normalize(self.text_encoder(tokens, contexts[chosen.to(contexts.device)]).prompt.float(), dim=-1)

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return the mean class weights (K, D) over all prompts."""
        contexts = prompts.text
        groups = torch.arange(len(contexts)).split(self.batch)  # all N at once would take N times the memory
        return torch.cat([self.class_weights(contexts, chosen) for chosen in groups], 1).mean(1)

    def image_features(self, images: Tensor) -> Tensor:
        """Return the unit features (B, D) of ``images``."""
        return F.normalize(self.image_encoder(images).prompt[:, 0].float(), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits, z mu_c / tau, for ``images`` (B, 3, H, W): mu is the mean class weight."""
        weights = self.cached(lambda: self.class_features(self.prompt_learner()))
        image = self.image_features(images)
        with torch.autocast(image.device.type, enabled=False):
            return self.logit_scale * image @ weights.T

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return L_up for a random batch of prompts + alpha L_so of all, and the batch's mean logits (B, K)."""
        contexts = self.prompt_learner().text
        chosen = torch.randperm(len(contexts))[: self.batch]
        weights = self.cached(lambda: self.class_weights(contexts, chosen))
        image = self.image_features(images)
        logits, spread = gaussian_logits(image, weights, labels, self.logit_scale)
        semantic = self.text_encoder(self.nameless.to(images.device), contexts).prompt[0]  # of all N prompts
        return F.cross_entropy(logits + spread / 2, labels) + self.alpha * orthogonality(semantic), logits


def prompt_positions(number: int) -> list[str]:
    """Return where each of N prompts has the class name: a quarter front, a quarter middle, the others end."""
    quarter = number // 4
    return ["front"] * quarter + ["middle"] * quarter + ["end"] * (number - 2 * quarter)


def gaussian_logits(image: Tensor, weights: Tensor, labels: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the mean and the spread of the logits under Gaussian class weights, of which the upper bound is made.

    With weights w ~ N(mu, Sigma) over all classes together, and y the label, Jensen's inequality gives
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


@TRAINER_REGISTRY.register()
class ProDA(PromptTrainer):
    """Learns N text contexts through the Gaussian of their class weights."""

    model_name = saved_part = "prompt_learner"
    model_class = CustomCLIP
    defaults = {
        "N_CTX": 16,
        "PREC": "auto",
        "N": 32,  # contexts
        "PROMPT_BATCH": 4,  # contexts that one training step runs
        "ALPHA": 0.1,  # weight of the orthogonality between prompts
    }

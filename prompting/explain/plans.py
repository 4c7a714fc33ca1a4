"""The transport plans of an image: which visual prompt is matched with which text prompt, and token with which patch.

Shape letters: M visual and N text prompts, J visual and L text tokens of a prompt, O patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from prompting.clip.tokens import PromptTokens, clip_tokenizer
from prompting.methods import METHODS, PromptedCLIP
from prompting.ot import HierarchicalOT


@dataclass(frozen=True)
class ClassPlan:
    """The transport between one image and one class."""

    label: int
    name: str
    probability: float
    plan: Tensor
    """(M, N) mass between visual and text prompts, of sum 1; for PLOT M is the O patches."""
    tokens: Tensor | None
    """(M, N, J, L) mass between visual and text tokens, of sum 1 for each pair; None without a token level."""
    words: list[list[str]]
    """N lists of the L text tokens; empty without a token level."""

    def heaviest(self, number: int = 1) -> list[tuple[int, int]]:
        """Return the ``number`` pairs (m, n) with the largest mass, the largest first."""
        order = self.plan.flatten().argsort(descending=True, stable=True)[:number]
        return [divmod(int(i), self.plan.shape[1]) for i in order]

    def heat(self, m: int, n: int, grid: tuple[int, int]) -> Tensor:
        """Return where the tokens of text prompt n lie on the image of visual prompt m, as multiples of uniform mass.

        Returns:
            (L, rows, columns); 1 is the mass 1 / (J L) of a uniform plan.

        Raises:
            ValueError: the plan has no token level.
        """
        if self.tokens is None:
            raise ValueError("this plan has no token level")
        pair = self.tokens[m, n]  # (J, L)
        patches = pair[: grid[0] * grid[1]] * pair.numel()
        return patches.T.unflatten(1, grid)

    def on_prompts(self, m: int, n: int, patches: int) -> Tensor:
        """Return the share (L,) of each text token's mass on the learned visual vectors instead of the O patches."""
        if self.tokens is None:
            raise ValueError("this plan has no token level")
        pair = self.tokens[m, n]
        return pair[patches:].sum(0) / pair.sum(0)


@dataclass(frozen=True)
class ImagePlan:
    """The transport between one image and some classes, the likeliest first."""

    classes: list[ClassPlan]
    grid: tuple[int, int]
    """Rows and columns of patches."""
    rows_are_patches: bool
    """Whether the rows of a plan are the patches themselves (PLOT) and not M visual prompts."""


def evenness(plan: Tensor) -> float:
    """Return the entropy of a plan divided by that of the uniform plan: 1 for a uniform plan, 0 for a single pair."""
    plan = plan.double() / plan.double().sum()
    return float(torch.special.entr(plan).sum()) / math.log(plan.numel()) if plan.numel() > 1 else 1.0


@torch.no_grad()
def transport_plans(
    model: PromptedCLIP[Any],
    images: Tensor,
    classnames: Sequence[str],
    *,
    top: int = 3,
    labels: Sequence[Sequence[int]] | None = None,
) -> list[ImagePlan]:
    """Return the plans between each image and its likeliest classes.

    Args:
        model: a model with a transport head: ALIGN, MMP, PLOT or PLOTPP.
        images: (B, 3, H, W), normalised.
        classnames: the K class names.
        top: number of likeliest classes.
        labels: for each image the classes to show in place of the likeliest.

    Returns:
        One ``ImagePlan`` for each image. The plans are those that the logits are made of: in the reading ``released``,
        whose prompt level stops together for a whole batch, the plans of this batch.

    Raises:
        ValueError: the method has no transport, or ``top`` is below 1.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, HierarchicalOT):
        have = ", ".join(sorted(name for name, one in METHODS.items() if hasattr(one, "head_input")))
        raise ValueError(f"{model.name} has no transport plan; methods that have one: {have}")
    if top < 1:
        raise ValueError(f"top is {top}; allowed: 1 or more classes")
    features = model.head_input(images)  # type: ignore[operator]
    prompt_plans = cast(Tensor, head.score(features).prompt.plan).cpu()
    probabilities = model(images).float().softmax(-1).cpu()
    found = []
    for i in range(len(images)):
        chosen = probabilities[i].argsort(descending=True, stable=True)[:top].tolist() if labels is None else labels[i]
        tokens = None
        if head.uses_tokens:  # of these classes alone: the plans of all would take B K M N J L numbers
            one = features._replace(z=features.z[i : i + 1], r=features.r[i : i + 1])
            tokens = head.score(one.select(torch.tensor(chosen, device=images.device)), return_plans=True).token
        classes = []
        for place, label in enumerate(chosen):
            mass, words = None, []
            if tokens is not None and tokens.plan is not None:
                words = token_words(model.tokens, model.token_set, label, prompt_plans.shape[-1])  # type: ignore
                mass = tokens.plan[0, place, ..., : len(words[0])].cpu()
            name, probability = classnames[label], float(probabilities[i, label])
            classes.append(ClassPlan(label, name, probability, prompt_plans[i, label], mass, words))
        found.append(ImagePlan(classes, model.shape.grid, model.transports_patches))
    return found


def token_words(tokens: PromptTokens, token_set: Tensor, label: int, number: int) -> list[list[str]]:
    """Return what stands at the positions of a class's token set: N lists of words.

    Learned vectors are called ``[1]``, ``[2]``, ...; the start and the end of a prompt ``[start]`` and ``[end]``.

    Args:
        tokens: the prompts.
        token_set: (N|1, K, T) bool, the positions of the token set.
        label: index of the class.
        number: N.
    """
    found, of_class = [], [x[:, label].expand(number, -1) for x in (tokens.ids, tokens.context, token_set)]
    for ids, context, chosen in zip(*of_class):
        learned = {int(position): f"[{i}]" for i, position in enumerate(context, 1)}
        positions = chosen.nonzero().flatten().tolist()
        found.append([learned.get(position) or token_word(int(ids[position])) for position in positions])
    return found


def token_word(token: int) -> str:
    """Return a token of CLIP's vocabulary as text; the start and the end of a prompt as ``[start]`` and ``[end]``."""
    tokenizer = clip_tokenizer()
    special = {tokenizer.sot_token_id: "[start]", tokenizer.eot_token_id: "[end]"}
    return special.get(token) or tokenizer.decode([token]).strip() or "?"

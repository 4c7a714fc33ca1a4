"""A trained model as an ``ExportedModel``: the vision tower, the learned prompts and the features of its classes."""

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from prompting.classifier import Classifier
from prompting.clip.blocks import can_split
from prompting.export.portable import ExportedModel
from prompting.learners import Prompts
from prompting.methods import CosineCLIP, PromptedCLIP
from prompting.methods.align import ALIGN
from prompting.methods.cocoop import CoCoOp
from prompting.methods.plot import TransportCLIP
from prompting.methods.proda import ProDA
from prompting.ot import HeadSettings
from prompting.ot.solver import KERNEL_LIMIT

Tensors = dict[str, Tensor]
Json = dict[str, Any]


@torch.no_grad()
def portable(classifier: Classifier, iterations: int | None = None) -> ExportedModel:
    """Return the exported form of a classifier, in float32 on the CPU.

    Its logits are those of the model up to rounding, if ``iterations`` are enough for every problem to stop.

    Args:
        classifier: a loaded run.
        iterations: number of iterations of the transport; None takes the model's largest number.

    Raises:
        ValueError: a method or a vision tower that has no exported form.
    """
    model = classifier.model
    if isinstance(model, CoCoOp):
        raise ValueError("CoCoOp cannot be exported: its class features depend on the image and need the text tower")
    prompts: Prompts = model.prompt_learner()
    head, head_tensors = _head(model, prompts)
    vision, tensors = _vision(model, prompts)
    if head["kind"] == "transport":
        head["iterations"] = iterations or head["max_iter"]
    config = {
        "method": classifier.settings.method,
        "classnames": list(classifier.classnames),
        "images": {name: list(v) if isinstance(v, tuple) else v for name, v in vars(classifier.preprocess).items()},
        "logit_scale": float(model.logit_scale),
        "vision": vision,
        "head": head,
    }
    exported = ExportedModel(config)
    exported.load_state_dict({name: value.detach().cpu().float() for name, value in (tensors | head_tensors).items()})
    return exported.eval().requires_grad_(False)


def _vision(model: PromptedCLIP[Any], prompts: Prompts) -> tuple[Json, Tensors]:
    """Return sizes and weights of the vision tower, with the visual prompts."""
    visual: Any = model.image_encoder.visual
    if not isinstance(visual, VisionTransformer):
        raise ValueError(f"the vision tower is a {type(visual).__name__}; only ViTs can be exported")
    blocks = visual.transformer.resblocks
    activation = type(blocks[0].mlp.gelu)
    if not can_split(visual.transformer) or activation not in (QuickGELU, nn.GELU) or visual.conv1.bias is not None:
        raise ValueError(f"the blocks of this ViT ({activation.__name__}) are not CLIP's; they cannot be exported")
    width = model.shape.vision_width
    first = torch.zeros(1, 0, width) if prompts.visual is None else prompts.visual
    deep = [vectors for vectors in prompts.deep_visual if vectors is not None]
    if len(deep) < len(prompts.deep_visual):
        raise ValueError(f"{type(model).__name__} cannot be exported: some of its blocks have no prompts of their own")
    number = max(len(vectors) for vectors in (first, *deep))
    tensors = {
        "conv.weight": visual.conv1.weight,
        "cls": visual.class_embedding.reshape(1, -1),
        "positions": visual.positional_embedding,
        "first": first.expand(number, -1, -1),
        "projection": torch.eye(width) if visual.proj is None else _matrix(visual.proj),
        **{f"deep.{i}": vectors.expand(number, -1, -1) for i, vectors in enumerate(deep)},
        **{f"ln_post.{name}": value for name, value in visual.ln_post.named_parameters()},
        **{f"ln_pre.{name}": value for name, value in visual.ln_pre.named_parameters()},
    }
    for i, block in enumerate(blocks):
        tensors |= {f"blocks.{i}.{name}": value for name, value in _block(block).items()}
    sizes = {
        "width": width,
        "layers": len(blocks),
        "heads": blocks[0].attn.num_heads,
        "hidden": blocks[0].mlp.c_fc.out_features,
        "embed": tensors["projection"].shape[1],
        "eps": visual.ln_post.eps,
        "quick_gelu": activation is QuickGELU,
        "ln_pre": isinstance(visual.ln_pre, nn.LayerNorm),
        "patch": list(visual.conv1.kernel_size),
        "patches": model.shape.patches,
        "prompts": number,
        "prompt_length": first.shape[1],
        "deep_lengths": [vectors.shape[1] for vectors in deep],
    }
    return sizes, {f"vision.{name}": value for name, value in tensors.items()}


def _matrix(projection: Any) -> Tensor:
    return projection.weight.T if isinstance(projection, nn.Linear) else projection


def _block(block: Any) -> Tensors:
    """Return the weights of a block, with layer scales multiplied into the projections before them."""

    def scaled(linear: Any, scale: Any, name: str) -> Tensors:
        gamma = getattr(scale, "gamma", torch.ones(linear.out_features, device=linear.weight.device))
        return {f"{name}.weight": linear.weight * gamma.unsqueeze(1), f"{name}.bias": linear.bias * gamma}

    norms = {f"{name}.{key}": v for name in ("ln_1", "ln_2") for key, v in getattr(block, name).named_parameters()}
    return {
        **norms,
        "qkv.weight": block.attn.in_proj_weight,
        "qkv.bias": block.attn.in_proj_bias,
        **scaled(block.attn.out_proj, block.ls_1, "out"),
        **scaled(block.mlp.c_fc, None, "fc"),
        **scaled(block.mlp.c_proj, block.ls_2, "proj"),
    }


def _head(model: PromptedCLIP[Any], prompts: Prompts) -> tuple[Json, Tensors]:
    """Return settings and class features of the score."""
    if isinstance(model, ALIGN):
        text = model.class_features(prompts)
        return _transport(model.head.settings, text, "patches" if model.transports_patches else "prompts")
    if isinstance(model, TransportCLIP):
        text = model.text_encoder(model.tokens, prompts.text)
        pooled = text.prompt.float().mean(1) if model.adds_pooled else None
        return _transport(model.head.settings, text, "patches" if model.transports_patches else "prompts", pooled)
    if isinstance(model, ProDA):
        return {"kind": "cosine", "pooled": False}, {"classes": model.class_features()}
    kind: Any = type(model)
    if (
        isinstance(model, CosineCLIP)
        and kind.forward is CosineCLIP.forward
        and kind.features is CosineCLIP.features
        and not prompts.visual_adapters
    ):
        classes = F.normalize(model.class_features(prompts).float(), dim=-1)
        return {"kind": "cosine", "pooled": False}, {"classes": classes}
    raise ValueError(
        f"{type(model).__name__} cannot be exported: it changes image features or scores by more than prompts"
    )


def _transport(settings: HeadSettings, text: Any, image_set: str, pooled: Tensor | None = None) -> tuple[Json, Tensors]:
    """Return settings and text features of a head with a transport; ``pooled`` are class features (K, D) to add."""
    beta, lambdas = settings.beta if settings.uses_tokens else 0.0, (settings.lambda_prompt, settings.lambda_token)
    head = {
        "kind": "transport",
        "pooled": pooled is not None,
        "image_set": image_set,
        "reading": settings.reading,
        "beta": beta,
        "lambda_prompt": lambdas[0],
        "lambda_token": lambdas[1],
        "tol": settings.tol,
        "max_iter": settings.max_iter,
        "texts": text.prompt.shape[1],
        # costs are at most 2 + 2 beta; beyond this, the kernel could underflow
        "log": (2 + 2 * beta) / min(lambdas) > KERNEL_LIMIT + 1e-6,
    }
    tensors = {"h": F.normalize(text.prompt.float(), dim=-1)}
    if beta:
        mask = torch.ones(text.tokens.shape[:-1], dtype=torch.bool) if text.mask is None else text.mask
        mask = mask.to(text.tokens.device)
        head["tokens"] = text.tokens.shape[2]
        tensors["s"] = F.normalize(text.tokens.float(), dim=-1).masked_fill(~mask.unsqueeze(-1), 0.0)
        tensors["weights"] = mask / mask.sum(-1, keepdim=True)
    if pooled is not None:
        tensors["classes"] = F.normalize(pooled, dim=-1)
    return head, tensors

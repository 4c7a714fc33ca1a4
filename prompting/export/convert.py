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
from prompting.methods.clip_lora import CLIPLoRA
from prompting.methods.cocoop import CoCoOp
from prompting.methods.coprompt import IMAGE_SHARE, CoPrompt
from prompting.methods.mma import MMA
from prompting.methods.mmrl import MMRL
from prompting.methods.plot import TransportCLIP
from prompting.methods.proda import ProDA
from prompting.methods.tipadapterf import TipAdapterF
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
    prompts: Prompts = model.prompt_learner()
    head, features = _head(model, prompts)
    vision, tensors = _vision(model, prompts)
    if head["kind"] == "transport":
        head["iterations"] = iterations or head["max_iter"]
    config = {
        "method": classifier.settings.method,
        "classnames": list(classifier.classnames),
        "images": {name: list(v) if isinstance(v, tuple) else v for name, v in vars(classifier.preprocess).items()},
        "vision": vision,
        "head": head
        | {"scale": float(model.score_scale), "sizes": {name: list(value.shape) for name, value in features.items()}},
    }
    exported = ExportedModel(config)
    tensors |= {f"features.{name}": value for name, value in features.items()}
    if isinstance(model, CoPrompt):  # image features f + relu(up(relu(down(f)))) / (1 / share - 1), up to their length
        down, up = model.adapter_image.parameters()
        tensors |= _linear("adapter.0", down) | _linear("adapter.2", up / (1 / IMAGE_SHARE - 1))
    exported.load_state_dict({name: value.detach().cpu().float() for name, value in tensors.items()})
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
    if prompts.visual_adapters and not isinstance(model, (CLIPLoRA, MMA)):
        raise ValueError(f"{type(model).__name__} cannot be exported: it changes the blocks by more than prompts")
    width, averaged = model.shape.vision_width, model.options.n_rep_tokens if isinstance(model, MMRL) else 0
    vectors = [None if prompts.visual is None else visual.ln_pre(prompts.visual), *prompts.deep_visual]
    given = {f"prompts_{i}": prompt for i, prompt in enumerate(vectors) if prompt is not None}
    number = max([1, *map(len, given.values())])
    single = {
        "cls": visual.class_embedding.reshape(1, -1),
        "positions": visual.positional_embedding,
        "projection": torch.eye(width) if visual.proj is None else visual.proj,
        **({"averaged": model.proj_rep} if averaged else {}),
        **{name: prompt.expand(number, -1, -1) for name, prompt in given.items()},
    }
    tensors = {
        "conv.weight": visual.conv1.weight,
        **{f"tensors.{name}": value for name, value in single.items()},
        **{f"ln_post.{name}": value for name, value in visual.ln_post.named_parameters()},
        **{f"ln_pre.{name}": value for name, value in visual.ln_pre.named_parameters()},
    }
    inner = [0] * (1 + len(blocks))
    updates = prompts.visual_adapters if isinstance(model, CLIPLoRA) else ()
    for i, block in enumerate(blocks):
        update = updates[i + 1] if i + 1 < len(updates) else None
        tensors |= {f"blocks.{i}.{name}": value for name, value in _block(block, update).items()}
    learner: Any = model.prompt_learner
    for place in learner.places if isinstance(model, MMA) else ():
        layers = learner.layers(place)
        inner[place] = layers[0].out_features
        for j, layer in enumerate(layers):
            scale = learner.scale if layer is layers[-1] else 1.0
            name = f"{f'blocks.{place - 1}.' if place else ''}adapter.{2 * j}"
            tensors |= _linear(name, scale * layer.weight, scale * layer.bias)
    sizes = {
        "width": width,
        "heads": blocks[0].attn.num_heads,
        "hidden": blocks[0].mlp.c_fc.out_features,
        "embed": single["projection"].shape[1],
        "eps": visual.ln_post.eps,
        "quick_gelu": activation is QuickGELU,
        "ln_pre": isinstance(visual.ln_pre, nn.LayerNorm),
        "patch": list(visual.conv1.kernel_size),
        "patches": model.shape.patches,
        "prompts": number,
        "averaged": averaged,
        "adapters": inner,
        "sizes": {name: list(value.shape) for name, value in single.items()},
    }
    return sizes, {f"vision.{name}": value for name, value in tensors.items()}


def _linear(name: str, weight: Tensor, bias: Tensor | None = None) -> Tensors:
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(len(weight)) if bias is None else bias}


def _block(block: Any, update: Any = None) -> Tensors:
    """Return the weights of a block, with layer scales and low-rank updates multiplied into the projections."""
    qkv, out = block.attn.in_proj_weight, block.attn.out_proj
    eye = torch.eye(len(qkv) // 3, device=qkv.device)
    if update is not None:  # linear functions of single positions: their values at the unit vectors are their columns
        qkv = qkv + torch.cat([torch.zeros_like(eye) if part is None else part.T for part in update.projections(eye)])
    more = update.attention(eye).T if update is not None and update.attention else 0.0

    def scaled(linear: Any, scale: Any, name: str, more: Any = 0.0) -> Tensors:
        gamma = getattr(scale, "gamma", torch.ones(linear.out_features, device=linear.weight.device))
        return _linear(name, (linear.weight + more) * gamma.unsqueeze(1), linear.bias * gamma)

    norms = {f"{name}.{key}": v for name in ("ln_1", "ln_2") for key, v in getattr(block, name).named_parameters()}
    return {
        **norms,
        **_linear("qkv", qkv, block.attn.in_proj_bias),
        **scaled(out, block.ls_1, "out", more),
        **scaled(block.mlp.c_fc, None, "fc"),
        **scaled(block.mlp.c_proj, block.ls_2, "proj"),
    }


def _head(model: PromptedCLIP[Any], prompts: Prompts) -> tuple[Json, Tensors]:
    """Return settings and class features of the score."""
    if isinstance(model, CoCoOp):
        raise ValueError("CoCoOp cannot be exported: its class features depend on the image and need the text tower")
    if isinstance(model, ALIGN):
        text = model.class_features(prompts)
        return _transport(model, text)
    if isinstance(model, TransportCLIP):
        text = model.text_encoder(model.tokens, prompts.text)
        pooled = text.prompt.float().mean(1) if model.adds_pooled else None
        return _transport(model, text, pooled)
    head, shares = {"kind": "cosine", "adapter": 0}, torch.ones(1)
    if isinstance(model, ProDA):
        return head, {"shares": shares, "classes": model.class_features()}
    if isinstance(model, TipAdapterF):
        cache, classes = model.adapter, model.class_features()
        weights = {"cache": cache.weight, "labels": cache.alpha * cache.values} if len(cache.weight) else {}
        return head | {"beta": cache.beta}, {"shares": shares, "classes": F.normalize(classes, dim=-1), **weights}
    if isinstance(model, MMRL) and model.rep_share:
        shares = torch.tensor([1 - model.rep_share, model.rep_share])
    if isinstance(model, CoPrompt):
        head["adapter"] = model.adapter_image.fc[0].out_features
    kind: Any = type(model)
    known = kind.forward is CosineCLIP.forward and kind.features is CosineCLIP.features
    if isinstance(model, CosineCLIP) and (known or isinstance(model, (CoPrompt, MMRL))):
        return head, {"shares": shares, "classes": F.normalize(model.class_features(prompts).float(), dim=-1)}
    raise ValueError(
        f"{type(model).__name__} cannot be exported: its scores are of a kind that an export does not know"
    )


def _transport(model: Any, text: Any, pooled: Tensor | None = None) -> tuple[Json, Tensors]:
    """Return settings and text features of a head with a transport; ``pooled`` are class features (K, D) to add."""
    settings: HeadSettings = model.head.settings
    beta, lambdas = settings.beta if settings.uses_tokens else 0.0, (settings.lambda_prompt, settings.lambda_token)
    head = {
        "kind": "transport",
        "adapter": 0,
        "patches": model.shape.patches if model.transports_patches else 0,
        "reading": settings.reading,
        "beta": beta,
        "lambda_prompt": lambdas[0],
        "lambda_token": lambdas[1],
        "tol": settings.tol,
        "max_iter": settings.max_iter,
        # costs are at most 2 + 2 beta; beyond this, the kernel could underflow
        "log": (2 + 2 * beta) / min(lambdas) > KERNEL_LIMIT + 1e-6,
    }
    tensors = {"h": F.normalize(text.prompt.float(), dim=-1)}
    if beta:
        mask = torch.ones(text.tokens.shape[:-1], dtype=torch.bool) if text.mask is None else text.mask
        mask = mask.to(text.tokens.device)
        tensors["s"] = F.normalize(text.tokens.float(), dim=-1).masked_fill(~mask.unsqueeze(-1), 0.0)
        tensors["weights"] = mask / mask.sum(-1, keepdim=True)
    if pooled is not None:
        tensors |= {"shares": torch.ones(1), "classes": F.normalize(pooled, dim=-1)}
    return head, tensors

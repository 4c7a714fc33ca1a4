"""Small random CLIP weights in the key names of OpenAI's checkpoints, of any sizes."""

import open_clip
import torch
from torch import Tensor, nn

STD = {"token_embedding.weight": 1.0, "positional_embedding": 0.3, "visual.class_embedding": 1.0}


def random_state(seed: int, embed: int, vision: dict, text: dict) -> dict[str, Tensor]:
    """Draw the state of an open_clip model, scaled so that activations stay near 1."""
    stream, state = torch.Generator().manual_seed(seed), {}
    with torch.device("meta"):
        shapes = open_clip.CLIP(embed, vision, {**text, "heads": 1, "vocab_size": 49408}).state_dict()
    for name, like in shapes.items():
        drawn = torch.randn(like.shape, generator=stream)
        if name == "logit_scale":
            state[name] = torch.tensor(20.0).log()
        elif "num_batches" in name:
            state[name] = torch.tensor(1)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(like.shape, generator=stream)
        elif name in STD or like.dim() == 1:
            norm = like.dim() == 1 and name.endswith("weight") and name not in STD
            state[name] = norm + STD.get(name, 0.1) * drawn
        elif name.endswith("positional_embedding"):
            state[name] = 0.4 * drawn
        elif name.endswith("proj") or name == "text_projection":  # used from the left: (d, D)
            state[name] = drawn * like.shape[0] ** -0.5
        else:
            state[name] = drawn * like[0].numel() ** -0.5 * (1.5 if like.dim() == 4 or "in_proj" in name else 1)
    return state


def vit_state(
    seed: int = 0,
    d_v: int = 128,
    d_l: int = 64,
    embed: int = 24,
    vision_layers: int = 3,
    text_layers: int = 3,
    patch: int = 4,
    grid: int = 3,
    context: int = 20,
    mlp: int = 4,
) -> dict[str, Tensor]:
    """Return the state dict of a random CLIP with a ViT."""
    vision = {"width": d_v, "layers": vision_layers, "head_width": min(64, d_v), "mlp_ratio": mlp}
    vision |= {"patch_size": patch, "image_size": patch * grid}
    text = {"width": d_l, "layers": text_layers, "context_length": context, "mlp_ratio": mlp}
    return random_state(seed, embed, vision, text)


def resnet_state(seed: int = 0, width: int = 8, embed: int = 24, side: int = 2, d_l: int = 64) -> dict[str, Tensor]:
    """Return the state dict of a random CLIP with a ResNet of one bottleneck per stage."""
    vision = {"width": width, "layers": (1, 1, 1, 1), "head_width": min(64, 32 * width), "image_size": 32 * side}
    return random_state(seed, embed, vision, {"width": d_l, "layers": 2, "context_length": 20})


class KeyedModule(nn.Module):
    """A module whose state dict is the one given: what a model object of another package looks like from outside."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(first, nn.Parameter(value.clone()))
            else:
                self.register_buffer(first, value.clone())
        for first, part in inner.items():
            self.add_module(first, KeyedModule(part))

    def forward(self, x: Tensor) -> Tensor:
        return x

"""Small random CLIP weights in the key names of OpenAI's checkpoints, of any sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCAB = 49408  # of CLIP's tokenizer, which the tests use as it is


class _Drawer:
    """Draws named normal tensors, scaled so that activations stay near 1."""

    def __init__(self, seed: int) -> None:
        self.stream = torch.Generator().manual_seed(seed)
        self.state: dict[str, Tensor] = {}

    def put(self, name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        self.state[name] = mean + std * torch.randn(*shape, generator=self.stream)

    def linear(self, name: str, out: int, inp: int) -> None:
        self.put(f"{name}.weight", out, inp, std=inp**-0.5)
        self.put(f"{name}.bias", out, std=0.05)

    def norm(self, name: str, width: int) -> None:
        self.put(f"{name}.weight", width, std=0.1, mean=1.0)
        self.put(f"{name}.bias", width, std=0.1)

    def batch_norm(self, name: str, width: int) -> None:
        self.norm(name, width)
        self.put(f"{name}.running_mean", width, std=0.1)
        self.state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.stream)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    def blocks(self, prefix: str, width: int, layers: int, mlp: int) -> None:
        for i in range(layers):
            name = f"{prefix}.resblocks.{i}"
            self.put(f"{name}.attn.in_proj_weight", 3 * width, width, std=1.5 * width**-0.5)
            self.put(f"{name}.attn.in_proj_bias", 3 * width, std=0.05)
            self.linear(f"{name}.attn.out_proj", width, width)
            self.norm(f"{name}.ln_1", width)
            self.linear(f"{name}.mlp.c_fc", mlp * width, width)
            self.linear(f"{name}.mlp.c_proj", width, mlp * width)
            self.norm(f"{name}.ln_2", width)

    def text(self, width: int, layers: int, context: int, embed: int, mlp: int) -> None:
        self.put("positional_embedding", context, width, std=0.3)
        self.put("text_projection", width, embed, std=width**-0.5)
        self.put("token_embedding.weight", VOCAB, width, std=1.0)
        self.norm("ln_final", width)
        self.blocks("transformer", width, layers, mlp)
        self.state["logit_scale"] = torch.tensor(20.0).log()


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
    draw = _Drawer(seed)
    draw.put("visual.class_embedding", d_v, std=1.0)
    draw.put("visual.positional_embedding", grid * grid + 1, d_v, std=0.5)
    draw.put("visual.proj", d_v, embed, std=d_v**-0.5)
    draw.put("visual.conv1.weight", d_v, 3, patch, patch, std=(3 * patch * patch) ** -0.5)
    draw.norm("visual.ln_pre", d_v)
    draw.norm("visual.ln_post", d_v)
    draw.blocks("visual.transformer", d_v, vision_layers, mlp)
    draw.text(d_l, text_layers, context, embed, mlp)
    return draw.state


def resnet_state(seed: int = 0, width: int = 8, embed: int = 24, side: int = 2, d_l: int = 64) -> dict[str, Tensor]:
    """Return the state dict of a random CLIP with a ResNet of one bottleneck a stage."""
    draw = _Drawer(seed)

    def conv(name: str, out: int, inp: int, size: int) -> None:
        draw.put(f"{name}.weight", out, inp, size, size, std=(2 / (inp * size * size)) ** 0.5)

    for i, (out, inp) in enumerate([(width // 2, 3), (width // 2, width // 2), (width, width // 2)], 1):
        conv(f"visual.conv{i}", out, inp, 3)
        draw.batch_norm(f"visual.bn{i}", out)
    inp = width
    for stage in range(1, 5):
        planes, name = width * 2 ** (stage - 1), f"visual.layer{stage}.0"
        for i, (o, n, size) in enumerate([(planes, inp, 1), (planes, planes, 3), (4 * planes, planes, 1)], 1):
            conv(f"{name}.conv{i}", o, n, size)
            draw.batch_norm(f"{name}.bn{i}", o)
        conv(f"{name}.downsample.0", 4 * planes, inp, 1)
        draw.batch_norm(f"{name}.downsample.1", 4 * planes)
        inp = 4 * planes
    draw.put("visual.attnpool.positional_embedding", side * side + 1, inp, std=0.3)
    for name in ("q_proj", "k_proj", "v_proj"):
        draw.linear(f"visual.attnpool.{name}", inp, inp)
    draw.linear("visual.attnpool.c_proj", embed, inp)
    draw.text(d_l, 2, 20, embed, 4)
    return draw.state


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

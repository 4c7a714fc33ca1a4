"""An exported prompted CLIP: loads model.safetensors with torch and safetensors alone.

    import load_model
    model = load_model.load("model.safetensors")
    logits = model(images)  # (B, 3, H, W), preprocessed as model.config["images"] says; logits (B, K)
    names = [model.config["classnames"][i] for i in logits.argmax(1)]

B images, K classes, M visual and N text prompts, O patches, J visual and L text tokens, D features, d width.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn


class Block(nn.Module):
    """A residual attention block of CLIP's vision tower."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, quick_gelu: bool) -> None:
        super().__init__()
        self.heads, self.quick_gelu = heads, quick_gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.ln_1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.fc(self.ln_2(x))
        return x + self.proj(h * torch.sigmoid(1.702 * h) if self.quick_gelu else F.gelu(h))


class VisionTower(nn.Module):
    """CLIP's ViT with M sets of prompts behind the patches: images to outputs (B, M, 1 + J, D), CLS first."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width, eps, b, m = config["width"], config["eps"], config["prompt_length"], config["prompts"]
        height, width_of_patch = config["patch"]
        self.conv = nn.Conv2d(3, width, (height, width_of_patch), (height, width_of_patch), bias=False)
        self.cls, self.positions = (nn.Parameter(torch.zeros(n, width)) for n in (1, 1 + config["patches"]))
        self.ln_pre = nn.LayerNorm(width, eps=eps) if config["ln_pre"] else nn.Identity()
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.first = nn.Parameter(torch.zeros(m, b, width))
        self.deep = nn.ParameterList([torch.zeros(m, n, width) for n in config["deep_lengths"]])
        sizes = width, config["heads"], config["hidden"], eps, config["quick_gelu"]
        self.blocks = nn.ModuleList([Block(*sizes) for _ in range(config["layers"])])
        self.projection = nn.Parameter(torch.zeros(width, config["embed"]))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).flatten(2).transpose(1, 2)  # (B, O, d)
        x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], 1) + self.positions
        x = self._append(self.ln_pre(x).unsqueeze(1).expand(-1, len(self.first), -1, -1), self.ln_pre(self.first))
        for i, block in enumerate(self.blocks):
            if 0 < i <= len(self.deep):
                prompts = self.deep[i - 1]
                x = self._append(x[:, :, : x.shape[2] - prompts.shape[1]], prompts)
            x = block(x.flatten(0, 1)).unflatten(0, (-1, len(self.first)))
        return self.ln_post(x) @ self.projection

    def _append(self, x: Tensor, prompts: Tensor) -> Tensor:
        return torch.cat([x, prompts.unsqueeze(0).expand(x.shape[0], -1, -1, -1)], 2)


def sinkhorn(cost: Tensor, v: Tensor, lam: float, iterations: int, tol: float, change: tuple, log: bool) -> Tensor:
    """Return the entropic plans (.., L, J) of costs (.., L, J), from 1 / J to the weights v (.., 1, L), 0 on padding.

    A problem stops when the L1 error of its row sums is at most ``tol``; with ``change``, problems that share all but
    these dimensions stop together, when the mean change of r is below ``tol``. Stopped plans stay as they are.
    """
    u, valid = 1.0 / cost.shape[-1], v.mT > 0
    shift = cost.where(valid, torch.inf).amin(-2, keepdim=True)
    kernel = ((shift - cost) / lam).where(valid, 0.0)  # log K, shifted by the minimum of each visual token
    c = torch.zeros_like(v).where(v > 0, -torch.inf) if log else (v > 0).to(cost.dtype)
    kernel, unshift = kernel if log else kernel.exp(), (shift / lam).exp()

    def rows(c: Tensor) -> Tensor:  # row vectors times matrices, the fastest batched product on a CPU
        return (kernel + c.mT).logsumexp(-2, keepdim=True) if log else c @ kernel

    total, r_end, c_end, running = rows(c), unshift, c, None
    before = torch.ones_like(unshift)
    for _ in range(iterations):
        r = math.log(u) - total if log else u / total
        c = v.log() - (kernel + r).logsumexp(-1, keepdim=True).mT if log else v / (r @ kernel.mT)
        total = rows(c)
        r_end, c_end = (r, c) if running is None else (r.where(running, r_end), c.where(running, c_end))
        if change:
            after = (r.exp() if log else r) * unshift
            more = (after - before).abs().mean(change, keepdim=True) >= tol
            before = after
        else:
            more = (((r + total).exp() if log else r * total) - u).abs().sum(-1, keepdim=True) > tol
        running = more if running is None else running & more
    return (kernel + r_end + c_end.mT).exp() if log else kernel * r_end * c_end.mT


class ExportedModel(nn.Module):
    """Vision tower, class features, and cosines or a transport of ``config["head"]["iterations"]`` iterations."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config, head, k, d = config, config["head"], len(config["classnames"]), config["vision"]["embed"]
        self.vision = VisionTower(config["vision"])
        if head["kind"] == "cosine" or head["pooled"]:
            self.classes = nn.Parameter(torch.zeros(k, d))
        if head["kind"] == "transport":
            self.h = nn.Parameter(torch.zeros(k, head["texts"], d))
            if head["beta"]:
                self.s = nn.Parameter(torch.zeros(k, head["texts"], head["tokens"], d))
                self.weights = nn.Parameter(torch.zeros(k, head["texts"], head["tokens"]))  # 1 / L, zero on padding

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of preprocessed images (B, 3, H, W)."""
        return self.score(self.vision(images))

    def score(self, raw: Tensor) -> Tensor:
        """Return the logits (B, K) of outputs (B, M, 1 + J, D) of the vision tower."""
        head, scale = self.config["head"], self.config["logit_scale"]
        out = F.normalize(raw, dim=-1)
        if head["kind"] == "cosine":
            return scale * out[:, 0, 0] @ self.classes.T
        patches = out[:, :, 1 : 1 + self.config["vision"]["patches"]].flatten(1, 2)
        z = patches if head["image_set"] == "patches" else out[:, :, 0]
        similarity = torch.einsum("knd,bmd->bknm", self.h, z)
        cost, released = 1 - similarity, head["reading"] == "released"
        more = {"iterations": head["iterations"], "tol": head["tol"], "log": head["log"]}
        if head["beta"]:
            tokens = 1 - torch.einsum("knld,bmjd->bkmnlj", self.s, out[:, :, 1:])
            v, change = self.weights[None, :, None, :, None], (2, 3, 4, 5) if released else ()  # v (1, K, 1, N, 1, L)
            distance = (sinkhorn(tokens, v, head["lambda_token"], change=change, **more) * tokens).sum((-2, -1)).mT
            cost = cost + head["beta"] * ((1 - distance) if released else distance)
            similarity = similarity if released else similarity - head["beta"] * distance
        weights = torch.full((1, 1, 1, head["texts"]), 1 / head["texts"])
        plan = sinkhorn(cost, weights, head["lambda_prompt"], change=(0, 1, 2, 3) if released else (), **more)
        logits = scale * (plan * similarity).sum((-2, -1))
        if head["pooled"]:
            logits = logits + scale * F.normalize(raw[:, :, 0].mean(1), dim=-1) @ self.classes.T
        return logits


def load(path: str) -> ExportedModel:
    """Return the model in a safetensors file, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        model = ExportedModel(json.loads(file.metadata()["config"]))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    return model.eval().requires_grad_(False)

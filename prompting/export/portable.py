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


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them; empty if one of the widths is 0."""
    pairs = zip(widths, widths[1:]) if all(widths) else ()
    return nn.Sequential(*[layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())][:-1])


class Block(nn.Module):
    """A residual attention block of CLIP's vision tower, with an adapter from its first norm to its output."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, quick_gelu: bool, inner: int) -> None:
        super().__init__()
        self.heads, self.quick_gelu = heads, quick_gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adapter = mlp(width, inner, inner, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(y).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.fc(self.ln_2(x))
        x = x + self.proj(h * torch.sigmoid(1.702 * h) if self.quick_gelu else F.gelu(h))
        return x + self.adapter(y) if self.adapter else x


class VisionTower(nn.Module):
    """CLIP's ViT with M sets of prompts behind the patches: images to outputs (B, M, 1 + J, D), CLS first."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width, eps, (inner, *others), self.config = config["width"], config["eps"], config["adapters"], config
        self.conv = nn.Conv2d(3, width, config["patch"], config["patch"], bias=False)
        self.ln_pre = nn.LayerNorm(width, eps=eps) if config["ln_pre"] else nn.Identity()
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.adapter = mlp(width, inner, inner, width)
        sizes = width, config["heads"], config["hidden"], eps, config["quick_gelu"]
        self.blocks = nn.ModuleList([Block(*sizes, inner) for inner in others])
        self.tensors = nn.ParameterDict({name: torch.zeros(size) for name, size in config["sizes"].items()})

    def forward(self, images: Tensor) -> Tensor:
        tensors, m, n = self.tensors, self.config["prompts"], self.config["averaged"]
        x = self.conv(images).flatten(2).transpose(1, 2)  # (B, O, d)
        x = self.ln_pre(torch.cat([tensors["cls"].expand(x.shape[0], 1, -1), x], 1) + tensors["positions"])
        x = (x + self.adapter(x) if self.adapter else x).unsqueeze(1).expand(-1, m, -1, -1)
        for i, block in enumerate(self.blocks):
            if (prompts := tensors.get(f"prompts_{i}")) is not None:  # they replace as many at the end, but no patches
                x = x[:, :, : max(1 + self.config["patches"], x.shape[2] - prompts.shape[1])]
                x = torch.cat([x, prompts.expand(x.shape[0], -1, -1, -1)], 2)
            x = block(x.flatten(0, 1)).unflatten(0, (-1, m))
        x = self.ln_post(x)  # with n: CLS, and the mean at the last n positions
        parts = {"projection": x[:, :, :1], "averaged": x[:, :, -n:].mean(2, True)} if n else {"projection": x}
        return torch.cat([part @ tensors[name] for name, part in parts.items()], 2)


def sinkhorn(cost: Tensor, v: Tensor, lam: float, iterations: int, tol: float, change: tuple, log: bool) -> Tensor:
    """Return the entropic plans (.., L, J) of costs (.., L, J), from 1 / J to the weights v (.., 1, L), 0 on padding.

    A problem stops when the L1 error of its row sums is at most ``tol``; with ``change``, problems that share all but
    these dimensions stop together, when the mean change of r is below ``tol``. Stopped plans stay as they are.
    """
    u, valid = 1.0 / cost.shape[-1], v.mT > 0
    shift = cost.where(valid, torch.inf).amin(-2, keepdim=True)
    kernel = ((shift - cost) / lam).where(valid, 0.0)  # log K, shifted by the minimum of each visual token
    c = torch.zeros_like(v).where(v > 0, -torch.inf) if log else (v > 0).to(cost.dtype)
    kernel, unshift = (kernel, shift / lam) if log else (kernel.exp(), (shift / lam).exp())

    def rows(c: Tensor) -> Tensor:  # row vectors times matrices, the fastest batched product on a CPU
        return (kernel + c.mT).logsumexp(-2, keepdim=True) if log else c @ kernel

    total, r_end, c_end, before = rows(c), unshift, c, torch.ones_like(unshift)
    running = before[..., :1] > 0
    for _ in range(iterations):
        r = math.log(u) - total if log else u / total
        c = v.log() - (kernel + r).logsumexp(-1, keepdim=True).mT if log else v / (r @ kernel.mT)
        total = rows(c)
        r_end, c_end = r.where(running, r_end), c.where(running, c_end)
        by = unshift if change else total
        value = (r + by).exp() if log else r * by  # r, or the row sums
        more = (value - before).abs().mean(change, True) >= tol if change else (value - u).abs().sum(-1, True) > tol
        before, running = value, running & more
    return (kernel + r_end + c_end.mT).exp() if log else kernel * r_end * c_end.mT


class ExportedModel(nn.Module):
    """Vision tower, class features, and cosines or a transport of ``config["head"]["iterations"]`` iterations."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config, d = config, config["vision"]["embed"]
        self.vision = VisionTower(config["vision"])
        self.adapter = mlp(d, config["head"]["adapter"], d)
        self.features = nn.ParameterDict({name: torch.zeros(size) for name, size in config["head"]["sizes"].items()})

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of preprocessed images (B, 3, H, W)."""
        return self.score(self.vision(images))

    def score(self, raw: Tensor) -> Tensor:
        """Return the logits (B, K) of outputs (B, M, 1 + J, D) of the vision tower."""
        head, features, logits = self.config["head"], self.features, torch.zeros(())
        raw = raw + F.relu(self.adapter(raw)) if self.adapter else raw
        if "classes" in features:  # of weighted outputs, CLS first
            image = F.normalize(raw[:, :, : len(features["shares"])].mean(1), dim=-1)
            logits = head["scale"] * (features["shares"] @ image) @ features["classes"].T
        if "cache" in features:  # of Tip-Adapter's cache
            logits = logits + (head["beta"] * (image[:, 0] @ features["cache"].T - 1)).exp() @ features["labels"]
        if head["kind"] == "cosine":
            return logits
        out, (k, n, _) = F.normalize(raw, dim=-1), features["h"].shape
        z = out[:, :, 1 : 1 + head["patches"]].flatten(1, 2) if head["patches"] else out[:, :, 0]
        similarity = torch.einsum("knd,bmd->bknm", features["h"], z)
        cost, released = 1 - similarity, head["reading"] == "released"
        more = {"iterations": head["iterations"], "tol": head["tol"], "log": head["log"]}
        if "s" in features:  # text tokens (K, N, L, D), and their weights v (K, N, L): 1 / L, zero on padding
            tokens = 1 - torch.einsum("knld,bmjd->bkmnlj", features["s"], out[:, :, 1:])
            v, change = features["weights"].view(1, k, 1, n, 1, -1), (2, 3, 4, 5) if released else ()
            distance = (sinkhorn(tokens, v, head["lambda_token"], change=change, **more) * tokens).sum((-2, -1)).mT
            cost = cost + head["beta"] * ((1 - distance) if released else distance)
            similarity = similarity if released else similarity - head["beta"] * distance
        v, change = torch.full((1, 1, 1, n), 1 / n), (0, 1, 2, 3) if released else ()
        plan = sinkhorn(cost, v, head["lambda_prompt"], change=change, **more)
        return logits + head["scale"] * (plan * similarity).sum((-2, -1))


def load(path: str) -> ExportedModel:
    """Return the model in a safetensors file, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        model = ExportedModel(json.loads(file.metadata()["config"]))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    return model.eval().requires_grad_(False)

"""Pre-train the mini CLIP by contrast on drawn pictures and their captions.

    python scripts/pretrain_mini_clip.py --out OUT            # train (goes on from OUT/checkpoint.pt if there is one)
    python scripts/pretrain_mini_clip.py --out OUT --steps 100  # a quick look

Model: open_clip's CLIP class, in the shape of OpenAI's ViTs. Loss: softmax over the batch, both ways, where every
caption that is true of a picture counts as a positive. Writes OUT/mini_clip.safetensors (float16, OpenAI's key names)
and OUT/train_log.jsonl.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dassl.utils.command import Parser, command
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import save_file
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datasets.mini.draw import COLOURS, SHAPES, draw, stream  # noqa: E402
from datasets.mini.world import FIGURE_TEXTURES, LOOKS, Facts, caption, facts_of, sample_scene  # noqa: E402

log = logging.getLogger("pretrain")

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
    "quick_gelu": True,
}
MEAN, STD = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
LONG_EVERY = 8  # one batch in so many has the long captions, because a batch costs what its longest caption costs
PAIRS = 3  # a batch takes its relation scenes from so many pairs of shapes, so that the relation itself must be seen


def picture(index: int, seed: int) -> tuple[np.ndarray, Facts]:
    """Draw picture number ``index`` of the pool."""
    rng = stream(seed, "pretrain", index)
    scene, look = sample_scene(rng), list(LOOKS)[rng.integers(len(LOOKS))]
    return np.asarray(draw(scene, LOOKS[look], rng)), facts_of(scene, look)


def _pictures(indices: range, seed: int) -> list[tuple[np.ndarray, Facts]]:
    return [picture(i, seed) for i in indices]


def draw_pool(size: int, seed: int, workers: int) -> tuple[torch.Tensor, list[Facts]]:
    """Return the pool's pictures (size, 3, 64, 64), uint8, and their facts."""
    chunks = [range(i, min(i + 200, size)) for i in range(0, size, 200)]
    images, facts = [], []
    with ProcessPoolExecutor(workers) as pool:
        parts = pool.map(_pictures, chunks, [seed] * len(chunks))
        for part in tqdm(parts, total=len(chunks), desc="drawing", mininterval=10):
            images += [image for image, _ in part]
            facts += [fact for _, fact in part]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), facts


def codes(facts: list[Facts], book: dict[str, int]) -> torch.Tensor:
    """Return facts as integers (n, fields); 0 is "open"."""
    rows = [[book.setdefault(word, len(book)) for word in vars(f).values()] for f in facts]
    return torch.tensor(rows)


def truth(pictures: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Return (B, T): whether each caption is true of each picture, from their codes."""
    stated = captions[None] != 0
    return (~stated | (captions[None] == pictures[:, None])).all(-1)


def contrast(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the mean over both directions of -sum_j t_ij log softmax_j(scale * <image_i, text_j>).

    t is ``true`` (B, T) with each row scaled to sum to 1.
    """
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    positive = true.float()
    by_image = positive / positive.sum(1, keepdim=True)
    by_text = positive / positive.sum(0, keepdim=True)
    loss_image = -(by_image * logits.log_softmax(1)).sum(1).mean()
    loss_text = -(by_text * logits.log_softmax(0)).sum(0).mean()
    return (loss_image + loss_text) / 2


def encode_text(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Text features from token ids cut to (T, L), L <= context: attention is causal, so nothing after EOS matters."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, brighten and normalise a uint8 batch (B, 3, H, W)."""
    dy, dx = torch.randint(-4, 5, (2,), generator=generator).tolist()
    x = torch.roll(images, (dy, dx), (2, 3)).float() / 255
    gain = 1 + 0.2 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    x = x * gain + 0.2 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    x = x + 0.03 * torch.randn(x.shape, generator=generator)
    return (x.clamp(0, 1) - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def padded(ids: list[list[int]]) -> torch.Tensor:
    """Return token ids as (T, longest), padded with 0 behind EOS."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(line) for line in ids], batch_first=True)


class Batches:
    """Endless batches of (images, image codes, tokens, caption codes); batch i depends on seed and i only."""

    def __init__(self, images: torch.Tensor, facts: list[Facts], batch_size: int, seed: int) -> None:
        self.images, self.facts, self.batch_size, self.seed = images, facts, batch_size, seed
        self.book: dict[str, int] = {"": 0}
        self.codes = codes(facts, self.book)
        self.tokenizer = SimpleTokenizer()
        self.ids: dict[str, list[int]] = {}
        pairs: dict[frozenset, list[int]] = {}
        for i, f in enumerate(facts):
            if f.shape2:
                pairs.setdefault(frozenset((f.shape, f.shape2)), []).append(i)
        self.pairs = [np.array(v) for v in pairs.values()]
        self.others = np.array([i for i, f in enumerate(facts) if not f.shape2])
        self.share = 1 - len(self.others) / len(facts)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, with SOS and EOS."""
        if text not in self.ids:
            self.ids[text] = [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
        return self.ids[text]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        related = np.concatenate([self.pairs[i] for i in rng.choice(len(self.pairs), PAIRS, replace=False)])
        count = round(self.share * self.batch_size)
        rows = np.concatenate([rng.choice(related, count), rng.choice(self.others, self.batch_size - count)])
        long = step % LONG_EVERY == 0
        said = [caption(self.facts[i], rng, full, long) for full in (True, False) for i in rows]
        ids = [self.tokens(text) for text, _ in said]
        tokens = padded(ids)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return augment(self.images[rows], generator), self.codes[rows], tokens, codes([f for _, f in said], self.book)


def build(seed: int) -> CLIP:
    """Return the untrained model. Rows that no caption reaches stay 0: they compress to nothing in the file."""
    torch.manual_seed(seed)
    model = CLIP(**MODEL)
    used = used_tokens()
    with torch.no_grad():
        keep = torch.zeros(MODEL["text_cfg"]["vocab_size"], 1)
        keep[sorted(used)] = 1
        model.token_embedding.weight.mul_(keep)
    return model


def used_tokens(samples: int = 30000) -> set[int]:
    """Return the ids of all tokens of many captions."""
    rng, tokenizer = np.random.default_rng(0), SimpleTokenizer()
    used = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    seen: set[str] = set()
    for i in range(samples):
        look = list(LOOKS)[i % len(LOOKS)]
        text, _ = caption(facts_of(sample_scene(rng), look), rng, i % 2 == 0, i % 10 == 0)
        if text not in seen:
            seen.add(text)
            used.update(tokenizer.encode(text))
    return used


def groups(model: CLIP, decay: float) -> list[dict]:
    """Parameter groups: weight decay on matrices only, none on embeddings."""
    plain, decayed = [], []
    for name, p in model.named_parameters():
        (plain if p.ndim < 2 or "embedding" in name else decayed).append(p)
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def save(model: CLIP, path: Path, longest: int) -> None:
    """Write the weights as float16 safetensors in the key names of OpenAI's checkpoints."""
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    state["positional_embedding"][longest:] = 0  # never trained
    save_file({k: v.half().contiguous() for k, v in state.items()}, str(path))


@torch.no_grad()
def held_in_accuracy(model: CLIP, batches: Batches) -> dict[str, float]:
    """Accuracy of naming each attribute of single figures that were not trained on, in the looks of pre-training."""
    model.eval()
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    rows = [i for i, f in enumerate(batches.facts) if f.kind == "figure"]
    pixels = (batches.images[rows].float() / 255 - mean) / std
    image = F.normalize(torch.cat([model.encode_image(part) for part in pixels.split(128)]), dim=-1)
    result = {}
    for field, words in (("colour", COLOURS), ("texture", FIGURE_TEXTURES), ("shape", SHAPES)):
        form = "a photo of a {}." if field == "shape" else "a photo of a {} figure."
        names = list(words)
        text = F.normalize(encode_text(model, padded([batches.tokens(form.format(w)) for w in names])), dim=-1)
        right = [names[g] == getattr(batches.facts[i], field) for g, i in zip((image @ text.T).argmax(1), rows)]
        result[field] = round(100 * float(np.mean(right)), 2)
    model.train()
    return result


def train(args: argparse.Namespace) -> None:
    """Run the pre-training."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    images, facts = draw_pool(args.pool + 2000, args.seed, args.threads)
    batches = Batches(images[: args.pool], facts[: args.pool], args.batch_size, args.seed)
    fresh = Batches(images[args.pool :], facts[args.pool :], args.batch_size, args.seed)
    log.info("drew %d pictures in %.0f s", len(facts), time.time() - start)
    model = build(args.seed)
    optimizer = torch.optim.AdamW(groups(model, args.decay), lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=args.warmup)
    first, longest, checkpoint = 0, 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, longest = state["step"], state["longest"]
        log.info("going on from step %d", first)
    sums, marked = [], time.time()
    with open(args.out / "train_log.jsonl", "a" if first else "w") as record:
        if not first:
            note = {k: v for k, v in vars(args).items() if k != "out"}
            record.write(json.dumps({"model": MODEL, "arguments": note}) + "\n")
        steps = range(first, args.steps)
        for step in tqdm(steps, initial=first, total=args.steps, desc="pre-training", mininterval=30):
            pixels, seen, tokens, said = batches(step)
            longest = max(longest, tokens.shape[1])
            image, text = model.encode_image(pixels), encode_text(model, tokens)
            loss = contrast(image, text, model.logit_scale.exp(), truth(seen, said))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            sums.append(loss.item())
            done = step + 1
            if done % args.log_every == 0 or done == args.steps:
                line = {"step": done, "loss": round(float(np.mean(sums)), 4), "lr": schedule.get_last_lr()[0],
                        "scale": round(model.logit_scale.exp().item(), 2),
                        "seconds_per_step": round((time.time() - marked) / len(sums), 3)}  # fmt: skip
                if done % args.save_every == 0 or done == args.steps:
                    line["accuracy"] = held_in_accuracy(model, fresh)
                record.write(json.dumps(line) + "\n")
                record.flush()
                log.info("%s", line)
                sums, marked = [], time.time()
            if done % args.save_every == 0 or done == args.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done,
                         "schedule": schedule.state_dict(), "longest": longest}  # fmt: skip
                torch.save(state, str(checkpoint) + ".part")
                os.replace(str(checkpoint) + ".part", checkpoint)
                save(model, args.out / "mini_clip.safetensors", longest)
    log.info("took %.0f s; longest caption %d tokens", time.time() - start, longest)


@command("pretrain_mini_clip.py")
def main(words: Sequence[str]) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pool", type=int, default=40000, help="pictures to draw")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--warmup", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=500)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())

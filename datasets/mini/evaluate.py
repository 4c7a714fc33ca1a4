"""Zero-shot accuracy and a linear probe of the mini CLIP on the mini suite: all that its difficulty is set by."""

import json
from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP, tokenize
from torch import Tensor

from .augment import normalise
from .medium import Medium
from .pack import OWN_WORDS
from .suite import PictureSet, image
from .towers import SHAPE, read_state, restored
from .vocabulary import expand

# Classes that are in no data set, black on white or in their own colours; test images only.
OWN = PictureSet("own words", OWN_WORDS, "shift", Medium())
# Words that pre-training's captions do not have.
UNKNOWN_WORDS = ("zebra", "xylophone", "walrus", "lobster", "cathedral", "trombone", "velociraptor")
PROBE_SHOTS = 16
PROBE_STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse regularisation; the best on val counts, of equal ones the first


def load_whole(path: Path, shape: dict = SHAPE) -> CLIP:
    """Return the CLIP of a file with its whole word table, in evaluation mode."""
    return restored(expand(read_state(path)), shape).eval().requires_grad_(False)


@torch.no_grad()
def encode_texts(model: CLIP, texts: list[str]) -> Tensor:
    """Return unit features (T, embed) of sentences."""
    return model.encode_text(tokenize(texts), normalize=True)


@torch.no_grad()
def encode_images(model: CLIP, images: np.ndarray, chunk: int = 64) -> Tensor:
    """Return unit features (n, embed) of images (n, 64, 64, 3), uint8."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return torch.cat([model.encode_image(normalise(part), normalize=True) for part in pixels.split(chunk)])


def images_of(dataset: PictureSet, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 64, 64, 3) and labels (n,) of a split."""
    count = dataset.images[split]
    labels = np.repeat(np.arange(len(dataset.classes())), count)
    return np.stack([image(dataset, split, int(c), i % count) for i, c in enumerate(labels)]), labels


def halves(classes: int) -> dict[str, range]:
    """Return the labels of base and new classes, as CoOp divides them."""
    middle = -(-classes // 2)
    return {"base": range(middle), "new": range(middle, classes)}


def accuracy(scores: Tensor, labels: np.ndarray, among: range | None = None) -> float:
    """Return the percentage of images whose own class scores highest, of all classes or of those of ``among`` only."""
    if among is not None:
        rows = np.isin(labels, list(among))
        scores, labels = scores[rows][:, list(among)], labels[rows] - among.start
    return 100 * float((scores.argmax(1).numpy() == labels).mean())


def zero_shot(model: CLIP, dataset: PictureSet) -> dict[str, float]:
    """Return accuracy in percent on all test images and, unless it is a shift, on base and new classes."""
    images, labels = images_of(dataset, "test")
    text = encode_texts(model, [dataset.template.format(name) for name in dataset.classes()])
    scores = encode_images(model, images) @ text.T
    result = {"all": accuracy(scores, labels)}
    if not dataset.test_only:
        result |= {part: accuracy(scores, labels, among) for part, among in halves(text.shape[0]).items()}
    return {part: round(value, 2) for part, value in result.items()}


def probe(model: CLIP, dataset: PictureSet) -> float:
    """Return the accuracy in percent of a linear probe with 16 shots a class, on the base classes."""
    from sklearn.linear_model import LogisticRegression

    base = halves(len(dataset.classes()))["base"]
    rng = np.random.default_rng(1)
    parts = {}
    for split in ("train", "val", "test"):
        images, labels = images_of(dataset, split)
        rows = np.flatnonzero(np.isin(labels, list(base)))
        if split == "train":
            rows = np.concatenate([rng.permutation(rows[labels[rows] == c])[:PROBE_SHOTS] for c in base])
        parts[split] = encode_images(model, images[rows]).numpy(), labels[rows]
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(*parts["train"]) for strength in PROBE_STRENGTHS]
    best = max(fitted, key=lambda one: one.score(*parts["val"]))
    return round(100 * best.score(*parts["test"]), 2)


def evaluate(model: CLIP, suite: dict[str, PictureSet], with_probe: bool, out: Path | None) -> None:
    """Print a line a data set and what the weights aim at; write JSON to ``out``."""
    table = {}
    for folder, dataset in {**suite, OWN.folder: OWN}.items():
        row = zero_shot(model, dataset)
        if with_probe and dataset.role in ("source", "target"):
            row["probe"] = probe(model, dataset)
        chance = 100 / len(dataset.classes())
        table[folder] = {"classes": len(dataset.classes()), **row}
        columns = [f"{part} {value:5.1f}" for part, value in row.items()]
        print(f"{dataset.name:<15}" + "  ".join([*columns, f"x {row['all'] / chance:.1f}"]), flush=True)
    own = table.pop(OWN.folder)
    mean = sum(row["all"] for row in table.values()) / len(table)
    words = encode_texts(model, [f"a photo of a {word}." for word in UNKNOWN_WORDS])
    cosine = float((words @ words.T).fill_diagonal_(-1).max())
    result = {"mean": round(mean, 2), "temperature": round(float(model.logit_scale.exp()), 2),
              "unknown_words": round(cosine, 4), OWN.folder: own, "sets": table}  # fmt: skip
    result = {"aims": aims(result), **result}
    print(", ".join(f"{key} {result[key]}" for key in ("mean", "temperature", "unknown_words", "aims")))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def aims(result: dict) -> dict[str, bool]:
    """Return which of the mini CLIP's aims a result reaches; accuracies are in percent."""
    rows = [*result["sets"].values()]
    return {
        "mean of zero-shot accuracy from 40 to 75": 40 <= result["mean"] <= 75,
        "every set at least 5 times chance": all(row["all"] * row["classes"] >= 500 for row in rows),
        "1 / tau from 50 to 100": 50 <= result["temperature"] <= 100,
        "unknown words below a cosine of 0.98": result["unknown_words"] < 0.98,
        "five own class names at least 3 times chance": result[OWN.folder]["all"] * 5 >= 300,
        "probe above zero-shot by 5 on most sets": sum(row.get("probe", 0) >= row.get("base", 100) + 5 for row in rows)
        > sum("base" in row for row in rows) / 2,
    }

"""Measure the zero-shot accuracy of the mini CLIP on every mini set, and write it as JSON.

    python scripts/eval_mini_zero_shot.py --out assets/mini_clip/zero_shot.json

Test pictures are drawn in memory (they are the same as the files that a data set reads) and the sentence around
a class name is the set's own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dassl.utils.command import Parser, command
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
from datasets.mini.suite import SUITE, MiniSet, picture  # noqa: E402
from prompting.clip import load_clip  # noqa: E402
from prompting.clip.templates import fill, template_for  # noqa: E402

WEIGHTS = PROJECT / "assets" / "mini_clip" / "mini_clip.safetensors"


def test_pictures(mini: MiniSet, seed: int | None = None, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures of a split (n, 3, H, W), normalised as CLIP's, and their labels (n,)."""
    size = mini.sizes[("train", "val", "test").index(split)]
    pairs = [(label, number) for label in range(len(mini.classes)) for number in range(size)]
    more = {} if seed is None else {"seed": seed}
    pixels = np.stack([np.asarray(picture(mini, split, *pair, **more)) for pair in pairs])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (x - mean) / std, torch.tensor([label for label, _ in pairs])


@torch.no_grad()
def similarities(model: torch.nn.Module, mini: MiniSet, images: torch.Tensor) -> torch.Tensor:
    """Return the cosine similarity (n, K) of pictures and class sentences."""
    sentences = [fill(template_for(mini.name), name) for name, _ in mini.classes]
    text = F.normalize(model.encode_text(SimpleTokenizer()(sentences)), dim=-1)
    image = F.normalize(torch.cat([model.encode_image(part) for part in images.split(256)]), dim=-1)
    return image @ text.T


def accuracies(similar: torch.Tensor, labels: torch.Tensor, test_only: bool) -> dict[str, float]:
    """Return the accuracy in percent over all classes and, unless ``test_only``, within base and within new ones."""
    half = -(-similar.shape[1] // 2)
    parts = {"all": slice(None)}
    if not test_only:
        parts.update(base=slice(0, half), new=slice(half, None))
    result = {}
    for name, classes in parts.items():
        chosen = torch.arange(similar.shape[1])[classes]
        rows = (labels >= chosen[0]) & (labels <= chosen[-1])
        right = chosen[similar[rows][:, classes].argmax(1)] == labels[rows]
        result[name] = round(100 * right.float().mean().item(), 2)
    return result


@command("eval_mini_zero_shot.py")
def main(words: Sequence[str]) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="checkpoint (default: the committed one)")
    parser.add_argument("--sets", nargs="+", default=list(SUITE), choices=list(SUITE), metavar="SET")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(words)
    model = load_clip(args.weights).eval()
    table = {}
    for name in args.sets:
        mini = SUITE[name]
        images, labels = test_pictures(mini)
        found = accuracies(similarities(model, mini, images), labels, mini.test_only)
        table[name] = {"template": template_for(mini.name), "pictures": len(labels), "accuracy": found}
        print(f"{mini.name:<15}" + "  ".join(f"{part} {value:5.1f}" for part, value in found.items()), flush=True)
    if args.out:
        command = "python scripts/eval_mini_zero_shot.py --out assets/mini_clip/zero_shot.json"
        args.out.write_text(json.dumps({"command": command, "sets": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

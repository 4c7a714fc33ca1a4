"""The mini CLIP in pre-training: open_clip's CLIP class, its towers on parts of pictures and cut captions, its file."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import CLIP, SimpleTokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .vocabulary import IDS, PARTS, ROWS, TABLE, mixtures

SHAPE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "width": 128, "heads": 2, "layers": 4},
}
LARGEST = 16 * 2**20  # bytes of the file


def build(rows: int, seed: int, shape: dict = SHAPE) -> CLIP:
    """Return an untrained CLIP whose word table has ``rows`` rows."""
    torch.manual_seed(seed)
    text = {**shape["text_cfg"], "vocab_size": rows}
    return CLIP(shape["embed_dim"], dict(shape["vision_cfg"]), text, quick_gelu=True)


def image_features(model: CLIP, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return features (B, embed) of normalised pictures (B, 3, H, W), from a part of their patches.

    ``kept`` (B, k) are indices of the patches that are read, row by row of the grid; None reads all. Reference: FLIP
    (arXiv 2212.00794), section 3.1.
    """
    visual = model.visual
    width, _, side, _ = visual.conv1.weight.shape
    count, _, height, _ = pixels.shape
    grid = height // side
    patches = pixels.view(count, 3, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5).reshape(count, grid * grid, -1)
    places = visual.positional_embedding[1:]
    if kept is None:
        places = places.expand(count, -1, -1)
    else:
        patches = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
        places = places[kept]
    x = F.linear(patches, visual.conv1.weight.view(width, -1)) + places
    start = (visual.class_embedding + visual.positional_embedding[0]).expand(count, 1, -1)
    x = visual.transformer(visual.ln_pre(torch.cat([start, x], 1)))
    return visual.ln_post(x[:, 0]) @ visual.proj


def text_features(model: CLIP, ids: Tensor, ends: Tensor) -> Tensor:
    """Return features (T, embed) of captions cut to the longest: attention is causal, so nothing after the end counts.

    ``ids`` (T, L) are rows of the word table, L at most the context length; ``ends`` (T,) the positions of the end
    token.
    """
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x), device=x.device), ends] @ model.text_projection


class Words:
    """Captions as rows of the word table; ``used`` are the sorted ids of the tokens that have a row."""

    def __init__(self, used: list[int]) -> None:
        self.used = used
        self.tokenizer = SimpleTokenizer()
        self._row = {token: row for row, token in enumerate(used)}

    def batch(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return rows (T, L) with start and end token, padded behind the end, and the places (T,) of the ends."""
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        lines = [torch.tensor([self._row[t] for t in (start, *self.tokenizer.encode(text), end)]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(lines, batch_first=True)
        return ids, torch.tensor([len(line) - 1 for line in lines])


def contrast(image: Tensor, text: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """Return the mean over both directions of -sum_j t_ij log softmax_j(scale <image_i, text_j>).

    ``image`` is (B, embed), ``text`` (T, embed), ``scale`` 1 / tau. ``true`` (B, T) says whether a caption is true of a
    picture, at least one in each row and column; t is this with each row (for the other direction: column) divided by
    its sum.
    """
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    positive = true.float()
    by_image = F.cross_entropy(logits, positive / positive.sum(1, keepdim=True))
    by_text = F.cross_entropy(logits.T, (positive / positive.sum(0)).T)
    return (by_image + by_text) / 2


def save(model: CLIP, used: list[int], longest: int, path: Path, notes: dict) -> None:
    """Write the weights in float16 under OpenAI's names, the word table as rows and parts (``vocabulary``).

    ``used`` are the ids of the tokens that have a row. The positions after ``longest``, the length of the longest
    caption, were never trained and are written as 0. ``notes``, such as the stage, are stored in the file.

    Raises:
        ValueError: the file would be larger than ``LARGEST``.
    """
    state = {key: value.detach().half().clone().contiguous() for key, value in model.state_dict().items()}
    state["positional_embedding"][longest:] = 0
    state[ROWS] = state.pop(TABLE)
    state[PARTS] = mixtures(tuple(used))
    state[IDS] = torch.tensor(used, dtype=torch.int32)
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > LARGEST:
        raise ValueError(f"the weights take {size / 2**20:.1f} MiB; at most {LARGEST / 2**20:.0f} are allowed")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(path), {"notes": json.dumps({**notes, "longest": longest})})


def read_notes(path: Path) -> dict:
    """Return what ``save`` remembered with the weights."""
    with safe_open(str(path), "pt") as file:
        return json.loads(file.metadata()["notes"])


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that ``save`` wrote; raise FileNotFoundError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    return load_file(str(path))


def restored(state: dict[str, Tensor], shape: dict = SHAPE) -> CLIP:
    """Return a CLIP with the weights of a state dict."""
    model = build(len(state[TABLE]), 0, shape)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model


def load(path: Path, shape: dict = SHAPE) -> tuple[CLIP, list[int], dict]:
    """Return the model with its cut word table, the ids of its rows and the notes of a file that ``save`` wrote."""
    state = read_state(path)
    used = state.pop(IDS).tolist()
    del state[PARTS]
    state[TABLE] = state.pop(ROWS)
    return restored(state, shape), used, read_notes(path)

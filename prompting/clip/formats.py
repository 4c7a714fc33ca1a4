"""Build open_clip models from checkpoint files and state dicts in OpenAI's key names.

The architecture is inferred from the shapes of the tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prompting.torch_files import is_torchscript, read_pickled
from prompting.torchscript import read_torchscript

# OpenAI's rule: attention heads are 64 wide; narrower towers have one head.
HEAD_WIDTH = 64
# CLIP's ResNets halve the image five times before the attention pool.
RESNET_STRIDE = 32
# The mini CLIP's file: a token embedding is a mixture of three rows with these weights (datasets/mini/vocabulary.py).
ROW_SHARES = (0.5, 0.25, 0.25)
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# Scalars in OpenAI's archives that are not weights.
_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_NEEDED = ("visual.conv1.weight", "positional_embedding", "token_embedding.weight", "text_projection", "logit_scale")
_TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file. No code in the file is run.

    Args:
        path: OpenAI's JIT archive, a pickled state dict (plain, or under ``state_dict``), or a safetensors file.

    Returns:
        Names to tensors, unchanged.

    Raises:
        ValueError: if the file is none of these, or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        if is_torchscript(path):
            return read_torchscript(path)
        loaded: Any = read_pickled(path)
    except (ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a readable CLIP checkpoint ({', '.join(SUFFIXES)}): {reason}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} holds no state dict: expected names to tensors, found {type(loaded).__name__}")
    return dict(loaded)


def build_clip(state: Mapping[str, Tensor], source: str) -> open_clip.CLIP:
    """Build the open_clip model of a state dict in OpenAI's key names, in float32.

    The model is created on the meta device and filled from the state dict, so that no random number is drawn.

    Args:
        state: names to tensors of any float dtype; the prefixes ``module.`` and ``text.`` are removed from names.
        source: name of the state dict in error messages, such as its path.

    Returns:
        An open_clip ``CLIP`` with QuickGELU, OpenAI's activation.

    Raises:
        ValueError: if tensors are missing or unknown, or if their shapes contradict each other.
    """
    state = _normalise(state, source)
    missing = [key for key in _NEEDED if key not in state]
    if missing:
        raise _incomplete(source, missing)
    with torch.device("meta"):
        try:
            model = open_clip.CLIP(quick_gelu=True, **_architecture(state))
        except KeyError as error:
            raise _incomplete(source, [str(error.args[0])]) from error
        except (ArithmeticError, AssertionError, IndexError, ValueError) as error:
            raise ValueError(f"{source}: the tensors' shapes are not those of a CLIP ({error})") from error
    expected = model.state_dict()
    # Inference does not read BatchNorm's counter, and conversions drop it.
    for key in expected:
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=torch.int64))
    missing = [key for key in expected if key not in state]
    if missing:
        raise _incomplete(source, missing)
    unknown = [key for key in state if key not in expected]
    if unknown:
        raise ValueError(f"{source} holds tensors that CLIP does not have: {_some(unknown)}")
    wrong = [key for key, value in expected.items() if value.shape != state[key].shape]
    if wrong:
        found, wanted = tuple(state[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        raise ValueError(f"{source}: {wrong[0]} has shape {found}, but the other tensors imply {wanted}")
    for key, value in expected.items():
        if value.is_floating_point() != state[key].is_floating_point():
            raise ValueError(f"{source}: {key} is of {state[key].dtype}; allowed: floating point, as in a CLIP")
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    # The state dict has all buffers but the causal mask, -inf above the diagonal.
    model.attn_mask.fill_(float("-inf")).triu_(1)
    model.visual.image_mean, model.visual.image_std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    return model


def _normalise(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from the names and convert floats to float32."""
    clean = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.removeprefix("text.").startswith(_TEXT_PARTS):
            name = name.removeprefix("text.")
        if name in clean:
            raise ValueError(f"{source} holds {name} twice, with and without the prefix 'module.' or 'text.'")
        if name not in _EXTRAS:
            clean[name] = value.detach().float() if value.is_floating_point() else value.detach()
    return _expand_word_table(clean)


def _expand_word_table(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the rows (R, d) of a compressed token embedding, and three row indices per token (V, 3), by (V, d)."""
    prefix = "token_embedding."
    if {f"{prefix}rows", f"{prefix}parts"} <= set(state):
        rows, parts = state.pop(f"{prefix}rows"), state.pop(f"{prefix}parts")
        state.pop(f"{prefix}ids", None)
        state[f"{prefix}weight"] = torch.einsum("vpd,p->vd", rows[parts.long()], torch.tensor(ROW_SHARES))
    return state


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f", ... ({len(keys)} in all)" if len(keys) > 5 else "")


def _incomplete(source: str, missing: list[str]) -> ValueError:
    return ValueError(f"{source} is not a complete CLIP state dict in OpenAI's key names; missing: {_some(missing)}")


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of distinct name parts that follow ``prefix.`` in the names."""
    start = prefix + "."
    return len({name[len(start) :].partition(".")[0] for name in state if name.startswith(start)})


def _architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer an open_clip configuration from the shapes of the tensors."""
    patches = state["visual.conv1.weight"]
    d_l, embed_dim = state["text_projection"].shape
    if "visual.class_embedding" in state or "visual.proj" in state:
        width, _, patch, _ = patches.shape
        vision: dict[str, Any] = {
            "layers": _depth(state, "visual.transformer.resblocks"),
            "width": width,
            "head_width": min(width, HEAD_WIDTH),
            "patch_size": patch,
            "image_size": patch * _side(state["visual.positional_embedding"]),
            "mlp_ratio": _mlp_ratio(state, "visual.transformer", width),
        }
    else:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        vision = {
            "layers": tuple(_depth(state, f"visual.layer{stage}") for stage in range(1, 5)),
            "width": width,
            "head_width": min(width * RESNET_STRIDE, HEAD_WIDTH),
            "image_size": RESNET_STRIDE * _side(state["visual.attnpool.positional_embedding"]),
        }
    text = {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": d_l,
        "heads": max(1, d_l // HEAD_WIDTH),
        "layers": _depth(state, "transformer.resblocks"),
        "mlp_ratio": _mlp_ratio(state, "transformer", d_l),
    }
    return {
        "embed_dim": embed_dim,
        "vision_cfg": open_clip.CLIPVisionCfg(**vision),
        "text_cfg": open_clip.CLIPTextCfg(**text),
    }


def _side(positions: Tensor) -> int:
    """Return the side of the square grid of position embeddings (1 + side ** 2, d)."""
    count = positions.shape[0] - 1
    side = round(count**0.5)
    if side < 1 or side * side != count:
        raise ArithmeticError(f"{count} image positions do not form a square")
    return side


def _mlp_ratio(state: Mapping[str, Tensor], transformer: str, width: int) -> float:
    return state[f"{transformer}.resblocks.0.mlp.c_fc.weight"].shape[0] / width

"""Load CLIP models by OpenAI's names, open_clip's pairs of name and tag, checkpoint files, or from model objects."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
import torch
from torch import nn

from prompting.clip.formats import SUFFIXES, build_clip, read_state
from prompting.files import file_hash
from prompting.ot.checks import did_you_mean, first_non_finite
from prompting.torch_files import read_pickled

if TYPE_CHECKING:
    from prompting.precision import Precision

# OpenAI's names -> open_clip's. open_clip's download URLs contain the file names and SHA-256 digests.
OPENAI_NAMES = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
# Names in OpenAI's style for other weights (without QuickGELU) -> open_clip's name and tag.
OTHER_NAMES = {"ViT-H/14": ("ViT-H-14", "laion2b_s32b_b79k")}
_ALIASES = {"ViT-L/14@336": "ViT-L/14@336px"}
# Environment variable with a folder that is searched before ~/.cache/clip.
FOLDER_VARIABLE = "CLIP_CACHE_DIR"
# Environment variable: 1 loads a file of a published name whose SHA-256 is not the published one.
UNKNOWN_VARIABLE = "CLIP_ALLOW_UNKNOWN"
# Formats that open_clip reads and that hold no code; other files are read as pickles.
OPEN_CLIP_SUFFIXES = (".safetensors", ".npz", ".npy")

_log = logging.getLogger("prompting")
_registered: dict[str, Path] = {}


def register_checkpoint(name: str, path: str | os.PathLike[str]) -> None:
    """Register a name for a checkpoint file, for :func:`load_clip`; an earlier registration is replaced.

    Args:
        name: not one of OpenAI's names, and without ``::``.
        path: the file, which need not exist yet.

    Raises:
        ValueError: if the name is one of OpenAI's or of open_clip's form.
    """
    if not name or "::" in name or name in (*OPENAI_NAMES, *OTHER_NAMES, *_ALIASES):
        raise ValueError(
            f"a checkpoint cannot be registered as {name!r}: OpenAI's names and 'name::pretrained' are taken"
        )
    _registered[name] = Path(path)


def checkpoint_file(source: str) -> str:
    """Return the absolute path of the file that :func:`load_clip` reads for a registered name or a path, else ""."""
    path = _registered.get(source, Path(os.path.expanduser(source)))
    return str(path.absolute()) if path.is_file() else ""


def load_clip(
    source: str | os.PathLike[str] | nn.Module,
    *,
    precision: "Precision | None" = None,
    device: str | torch.device | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Load a CLIP as an open_clip module, frozen and in evaluation mode.

    Args:
        source: one of
            - one of OpenAI's nine names (``ViT-B/16``, ``RN50``, ...), or ``ViT-H/14`` for LAION's weights: the file
              is searched in ``folder``, in the folder of the environment variable ``CLIP_CACHE_DIR`` and in
              ``~/.cache/clip``, then downloaded by open_clip;
            - ``name::pretrained`` of open_clip, where ``pretrained`` is a tag or a file;
            - a name registered by :func:`register_checkpoint`;
            - a checkpoint file in OpenAI's key names: JIT archive, state dict or safetensors, with inferred sizes and
              QuickGELU; for other files, name the architecture (``ViT-B-16::file.pt``);
            - a model of OpenAI's ``clip`` package, which is converted, or of open_clip, which is used unchanged.
        precision: dtype of the weights; None is float32, or unchanged for an open_clip model.
        device: device of the model; None is the CPU, or unchanged for an open_clip model.
        folder: folder with OpenAI's files or LAION's ``ViT-H-14.pt``.

    Returns:
        An open_clip ``CLIP`` or ``CustomTextCLIP`` whose parameters take no gradient.

    Raises:
        ValueError: an unknown name, a file or model object that is not a complete CLIP, a file with NaN, or a file of
            one of OpenAI's names with another SHA-256 than the published one (unless ``CLIP_ALLOW_UNKNOWN=1``).
        FileNotFoundError: a file that does not exist and, for names, cannot be downloaded.
    """
    if isinstance(source, (open_clip.CLIP, open_clip.CustomTextCLIP)):
        model: nn.Module = source
    elif isinstance(source, nn.Module):
        model = build_clip(source.state_dict(), f"the {type(source).__name__} object")
    else:
        model = _from_name(os.fspath(source), folder)
        if problem := first_non_finite(model.named_parameters()):
            raise ValueError(f"the backbone {os.fspath(source)} is damaged: {problem}; download it again")
    if device is not None:
        model = model.to(device)
    model = model.requires_grad_(False).eval()
    return model if precision is None else precision.cast_(model)


def _from_name(source: str, folder: str | os.PathLike[str] | None) -> nn.Module:
    source = _ALIASES.get(source, source)
    if source in _registered:
        return _from_file(f"checkpoint {source!r}", _registered[source])
    if source in OPENAI_NAMES or source in OTHER_NAMES:
        return _from_published(source, folder)
    if "::" in source:
        return _from_open_clip(*source.split("::", 1))
    path = Path(os.path.expanduser(source))
    if path.is_file() or path.suffix in SUFFIXES or source.startswith(("/", "./", "../", "~")):
        return _from_file("checkpoint", path)
    pairs = [f"{name}::{tag}" for name, tag in open_clip.list_pretrained()]
    named = [*_registered, *OPENAI_NAMES, *OTHER_NAMES]
    listing = f"{', '.join(named)}, name::pretrained of open_clip, or a path"
    raise _unknown("CLIP backbone", source, [*named, *pairs], listing)


def _from_file(name: str, path: Path) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file at {path.absolute()}")
    sums = path.with_name("SHA256SUMS")
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []:
        digest, _, file = line.partition(" ")
        if file.strip(" *") == path.name and digest != file_hash(path):
            raise ValueError(f"{path} is damaged: its SHA-256 is not that of {sums}")
    return build_clip(read_state(path), str(path))


def openai_files(name: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the paths at which ``load_clip`` searches the file of one of OpenAI's nine names, in order."""
    return _search_paths(open_clip.get_pretrained_url(OPENAI_NAMES[name], "openai").split("/")[-1], folder)


def _search_paths(file: str, folder: str | os.PathLike[str] | None) -> list[Path]:
    folders = (folder, os.environ.get(FOLDER_VARIABLE), "~/.cache/clip")
    return [Path(os.path.expanduser(directory)) / file for directory in folders if directory]


def _from_published(name: str, folder: str | os.PathLike[str] | None) -> nn.Module:
    """Load the weights of a name in OpenAI's style from a file in one of the folders, else download them."""
    architecture, tag = OTHER_NAMES.get(name) or (OPENAI_NAMES[name], "openai")
    by_openai = tag == "openai"
    if by_openai:
        source = open_clip.get_pretrained_url(architecture, tag)
        digest, file = source.split("/")[-2:]
    else:
        page = open_clip.get_pretrained_cfg(architecture, tag)["hf_hub"].strip("/")
        source, digest, file = f"https://huggingface.co/{page}", "", f"{architecture}.pt"
    tried = _search_paths(file, folder)
    for path in tried:
        if path.is_file() and not by_openai:
            return _from_open_clip(architecture, str(path))
        if path.is_file():
            found = file_hash(path)
            if found != digest:
                differs = f"{path} is not the published {name}: SHA-256 {found}, published {digest}"
                if os.environ.get(UNKNOWN_VARIABLE) != "1":
                    raise ValueError(f"{differs}. To use this file, name its path, or set {UNKNOWN_VARIABLE}=1")
                _log.warning(differs)
            return _from_file(name, path)
    try:
        return open_clip.create_model(architecture, pretrained=tag, force_quick_gelu=by_openai)
    except Exception as error:  # open_clip, hub clients and sockets raise many types
        raise FileNotFoundError(
            f"no weights for {name}: not at {', '.join(map(str, tried))}, and downloading failed "
            f"({_first_line(error)}). Put {file} (from {source}) into {tried[0].parent}"
        ) from error


def _from_open_clip(name: str, pretrained: str) -> nn.Module:
    if name not in open_clip.list_models():
        models = open_clip.list_models()
        raise _unknown("open_clip model", name, models, f"the {len(models)} of open_clip.list_models()")
    if not os.path.isfile(pretrained) and not open_clip.is_pretrained_cfg(name, pretrained):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise _unknown(f"weights of {name} (a tag or a file)", pretrained, tags, ", ".join(tags))
    if os.path.isfile(pretrained) and Path(pretrained).suffix not in OPEN_CLIP_SUFFIXES:
        try:
            read_pickled(pretrained, objects=False)  # older versions of open_clip run code in the file
        except ValueError as error:
            raise ValueError(f"{pretrained} does not load as {name}: {error}") from error
    try:
        return open_clip.create_model(name, pretrained=pretrained)
    except Exception as error:
        if os.path.isfile(pretrained):
            raise ValueError(f"{pretrained} does not load as {name}: {_first_line(error)}") from error
        raise FileNotFoundError(
            f"no weights for {name}::{pretrained}: open_clip could not get them ({_first_line(error)}). "
            f"Download them elsewhere and name the file: {name}::/path/to/file"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _unknown(kind: str, given: str, allowed: Sequence[str], listing: str) -> ValueError:
    return ValueError(f"unknown {kind} {given!r}; allowed: {listing}{did_you_mean(given, allowed)}")

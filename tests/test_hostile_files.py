"""Files that bring code are refused, or read without it: each real payload would make a folder.

Config files: tests/engine/test_values.py; few-shot pickles: tests/datasets/test_fewshot.py.
"""

import os
import pickle
from typing import Tuple

import pytest
import torch
from dassl.utils import load_checkpoint, resume_from_checkpoint
from torch import Tensor, nn

from prompting.checkpoint import read_state_dict
from prompting.clip import load_clip, loading
from prompting.torch_files import is_torchscript
from prompting.torchscript import read_torchscript
from tests.clip.test_loading import jit_archive
from tests.reference.clip_states import vit_state


class MakesFolder:
    """Runs ``os.mkdir`` when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Writes(nn.Module):
    """Writes a file when ``torch.jit.load`` calls its ``__setstate__``."""

    def __init__(self, path):
        super().__init__()
        self.weight, self.path = nn.Parameter(torch.ones(2)), str(path)

    @torch.jit.export
    def __getstate__(self) -> Tuple[Tensor, str, bool]:  # noqa: UP006  TorchScript knows this form alone
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, str, bool]) -> None:  # noqa: UP006
        self.weight, self.path, self.training = state
        torch.ops.aten.save(self.weight, self.path)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def mark(tmp_path):
    """The path that every payload would make."""
    path = tmp_path / "hostile code was here"
    yield path
    assert not path.exists()


def archive(path, mark):
    torch.jit.script(Writes(mark)).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_payloads_are_real(tmp_path):
    pickle.loads(pickle.dumps(MakesFolder(tmp_path / "a")))
    torch.jit.load(str(archive(tmp_path / "b.pt", tmp_path / "b")))
    assert (tmp_path / "a").is_dir() and (tmp_path / "b").is_file()


def refused(*reads):
    """Every function refuses its file in one line, which does not advise to load it unsafely."""
    for read in reads:
        with pytest.raises(ValueError) as error:
            read()
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


FORMS = {
    "zip": lambda content, path: torch.save(content, path),
    "before torch 1.6": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "old pickle": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
}


@pytest.mark.parametrize("hidden", [lambda x: x, lambda x: {"state_dict": {"a": x}}, lambda x: {"optimizer": [x]}])
@pytest.mark.parametrize("form", FORMS)
def test_pickles(form, hidden, mark, tmp_path):
    path = tmp_path / "model.pth.tar-1"
    FORMS[form](hidden(MakesFolder(mark)), path)
    (tmp_path / "checkpoint").write_text("model.pth.tar-1\n")
    (tmp_path / "clip.pt").write_bytes(path.read_bytes())
    refused(
        lambda: read_state_dict(path),
        lambda: load_checkpoint(str(path)),
        lambda: resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1)),
        lambda: load_clip(tmp_path / "clip.pt"),
        lambda: load_clip(f"ViT-B-32::{path}"),
        lambda: load_clip(f"ViT-B-32::{tmp_path / 'clip.pt'}"),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(mark, tmp_path, monkeypatch):
    path = archive(tmp_path / "ViT-B-16.pt", mark)
    assert is_torchscript(path)
    monkeypatch.setenv(loading.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(loading.UNKNOWN_VARIABLE, "1")
    refused(
        lambda: load_clip(path),
        lambda: load_clip("ViT-B/16"),
        lambda: load_clip(f"ViT-B-16::{path}"),
        lambda: read_state_dict(path),
        lambda: load_checkpoint(str(path)),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_tensors_of_an_archive_are_those_that_torch_reads(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(2, 3).half()
            self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), self.shared)
            self.register_buffer("size", torch.tensor(7))
            self.attribute, self.view = torch.ones(3), nn.Parameter(torch.arange(6.0).view(2, 3).t()[1:])

        def forward(self, x):
            return x + self.attribute.sum()

    torch.jit.trace(Net(), torch.zeros(1)).save(str(tmp_path / "net.pt"))
    jit_archive(vit_state(), tmp_path / "clip.pt")
    for name in ("net.pt", "clip.pt"):
        ours, theirs = read_torchscript(tmp_path / name), torch.jit.load(str(tmp_path / name)).state_dict()
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert torch.equal(ours[key], value) and (ours[key].dtype, ours[key].shape) == (value.dtype, value.shape)

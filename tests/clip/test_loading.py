"""Every way to name a CLIP leads to the same model, and every wrong one to one clear line."""

import hashlib
import json
import logging
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from prompting.clip import ClipShape, load_clip, loading, register_checkpoint
from prompting.clip.formats import build_clip
from prompting.precision import Precision
from tests.reference.clip_states import KeyedModule, resnet_state, vit_state

EXTRAS = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder with nothing in it, no network, and no names registered."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(loading.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(loading, "_registered", {})
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch):
    def create_model(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to download weights\nwith a long story")

    monkeypatch.setattr(open_clip, "create_model", create_model)


def same(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Assert that a model holds exactly these weights, frozen, in float32 and evaluation mode."""
    loaded = model.state_dict()
    assert set(loaded) == set(state) - set(EXTRAS)
    for name, value in loaded.items():
        expected = state[name]
        assert torch.equal(value, expected.float() if expected.is_floating_point() else expected), name
        assert not value.is_floating_point() or value.dtype == torch.float32
    assert isinstance(model, open_clip.CLIP) and not model.training
    assert not any(p.requires_grad for p in model.parameters())


def jit_archive(state: dict[str, Tensor], path: Path) -> None:
    """Write what OpenAI publishes: a ScriptModule with half weights, and three integers beside them."""
    torch.jit.save(torch.jit.trace(KeyedModule({**state, **EXTRAS}), torch.zeros(1)), str(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_openai_archive(kind, request, tmp_path):
    state = request.getfixturevalue(f"{kind}_weights")
    half = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    jit_archive(half, tmp_path / "model.pt")
    same(load_clip(tmp_path / "model.pt"), half)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("form", ["plain", "float32", "wrapped", "parallel", "safetensors", "under text"])
def test_state_dict_files(kind, form, request, tmp_path):
    state, dtype = request.getfixturevalue(f"{kind}_weights"), torch.float32 if form == "float32" else torch.float16
    state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in state.items()}
    top = ("visual.", "logit_scale")
    content = {
        "wrapped": {"state_dict": state, "epoch": 3},
        "parallel": {"state_dict": {f"module.{name}": v for name, v in state.items()}},
        "under text": {name if name.startswith(top) else f"text.{name}": v for name, v in state.items()},
    }.get(form, {**state, **EXTRAS})
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    (safetensors.torch.save_file if form == "safetensors" else torch.save)(content, path)
    same(load_clip(str(path)), state)


def test_counters_may_be_missing(resnet_weights):
    state = {name: v for name, v in resnet_weights.items() if not name.endswith("num_batches_tracked")}
    model = build_clip(state, "x")
    torch.testing.assert_close(model.visual.bn1.running_mean, resnet_weights["visual.bn1.running_mean"])


def test_model_objects(vit_weights):
    half = {name: v.half() for name, v in vit_weights.items()}
    same(load_clip(KeyedModule(half)), half)
    random = torch.get_rng_state()
    model = build_clip(vit_weights, "x").train()
    assert torch.equal(random, torch.get_rng_state())  # loading draws no random numbers
    assert load_clip(model) is model
    same(model, vit_weights)
    assert load_clip(model.double()).text_projection.dtype == torch.float64  # unchanged unless asked
    load_clip(model, precision=Precision.resolve("bf16"), device="cpu")
    assert model.text_projection.dtype == torch.bfloat16 and model.ln_final.weight.dtype == torch.float32


@pytest.mark.slow
def test_built_as_open_clip_builds_it():
    """Heads, activation, mask and all else that no tensor holds: compare with open_clip's own builder."""
    size = {"d_v": 128, "d_l": 128, "patch": 8, "grid": 2}
    for state in (vit_state(seed=5, **size), resnet_state(seed=5, width=64, d_l=128)):
        theirs = open_clip.model.build_model_from_openai_state_dict(dict(state), cast_dtype=None).float()
        ours = build_clip({name: v.half() if v.is_floating_point() else v for name, v in state.items()}, "x").eval()
        ours.load_state_dict(theirs.state_dict())
        images = torch.randn(1, 3, *ClipShape.from_model(ours).image_size)
        ids = open_clip.SimpleTokenizer()(["a cat", "two dogs"], context_length=20)
        torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images))
        torch.testing.assert_close(ours.encode_text(ids), theirs.encode_text(ids))
        assert ours.visual.image_mean == open_clip.OPENAI_DATASET_MEAN


# -- names -----------------------------------------------------------------------------------------------------------


def test_openai_files_in_the_cache(home, tmp_path, monkeypatch):
    monkeypatch.setenv(loading.UNKNOWN_VARIABLE, "1")
    folders = {"home": home / ".cache" / "clip", "variable": tmp_path / "v", "argument": tmp_path / "a"}
    for seed, folder in enumerate(folders.values()):
        folder.mkdir(parents=True)
        torch.save(vit_state(seed, d_v=64, vision_layers=1, text_layers=1), folder / "ViT-L-14-336px.pt")
    expected = [vit_state(seed, d_v=64, vision_layers=1, text_layers=1) for seed in range(3)]
    same(load_clip("ViT-L/14@336px"), expected[0])
    same(load_clip("ViT-L/14@336"), expected[0])
    monkeypatch.setenv(loading.FOLDER_VARIABLE, str(folders["variable"]))
    same(load_clip("ViT-L/14@336px"), expected[1])
    same(load_clip("ViT-L/14@336px", folder=folders["argument"]), expected[2])


def test_a_file_with_another_hash_than_beside_it_is_refused(tmp_path):
    path = tmp_path / "my clip.pt"
    torch.save(vit_state(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for line in (f"{digest}  my clip.pt", f"{digest} *my clip.pt", f"{'0' * 64}  clip.pt", "", "torn"):
        (tmp_path / "SHA256SUMS").write_text(f"{line}\n")
        same(load_clip(path), vit_state())
    (tmp_path / "SHA256SUMS").write_text(f"{digest[::-1]}  my clip.pt\n")
    with pytest.raises(ValueError, match=f"{path} is damaged: its SHA-256 is not that of {tmp_path}/SHA256SUMS"):
        load_clip(path)


def test_another_file_of_a_published_name_is_refused(home, monkeypatch, caplog):
    path = home / ".cache" / "clip" / "RN50.pt"
    path.parent.mkdir(parents=True)
    torch.save(resnet_state(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    with pytest.raises(ValueError, match=f"not the published RN50.*{digest}.*{published}.*path.*CLIP_ALLOW_UNKNOWN=1$"):
        load_clip("RN50")
    same(load_clip(path), resnet_state())
    monkeypatch.setenv(loading.UNKNOWN_VARIABLE, "1")
    with caplog.at_level(logging.WARNING, "prompting"):
        same(load_clip("RN50"), resnet_state())
    assert [r for r in caplog.records if digest in r.getMessage() and published in r.getMessage()]

    caplog.clear()
    monkeypatch.delenv(loading.UNKNOWN_VARIABLE)
    monkeypatch.setattr(open_clip, "get_pretrained_url", lambda *_: f"https://host/models/{digest}/RN50.pt")
    load_clip("RN50")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "file", "source"),
    [
        ("RN50x4", "RN50x4.pt", "openaipublic"),
        ("ViT-L/14@336px", "ViT-L-14-336px.pt", "openaipublic"),
        ("ViT-H/14", "ViT-H-14.pt", "huggingface.co/laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    ],
)
def test_names_without_file_or_network(name, file, source, home, tmp_path, offline):
    with pytest.raises(FileNotFoundError, match=f"^no weights for {name}: not at ") as caught:
        load_clip(name, folder=tmp_path / "mine")
    message = str(caught.value)
    assert str(tmp_path / "mine" / file) in message and str(home / ".cache" / "clip" / file) in message
    assert "Failed to download weights" in message and "\n" not in message and source in message


def test_names_without_a_file_go_to_open_clip(home, vit_weights, monkeypatch):
    """ViT-H/14 is open_clip's to read also from a file: it has no QuickGELU and other heads than OpenAI's models."""
    asked = []

    def create_model(name: str, **settings: object) -> nn.Module:
        asked.append((name, settings["pretrained"], settings.get("force_quick_gelu", False)))
        return build_clip(vit_weights, "x")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    same(load_clip("ViT-B/16"), vit_weights)
    same(load_clip("ViT-H/14"), vit_weights)
    file = home / ".cache" / "clip" / "ViT-H-14.pt"
    file.parent.mkdir(parents=True)
    torch.save({}, file)
    same(load_clip("ViT-H/14"), vit_weights)
    assert asked == [
        ("ViT-B-16", "openai", True),
        ("ViT-H-14", "laion2b_s32b_b79k", False),
        ("ViT-H-14", str(file), False),
    ]


def test_open_clip_pairs(tmp_path, vit_weights):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"layers": 3, "width": 128, "patch_size": 4, "image_size": 12},
        "text_cfg": {"context_length": 20, "width": 64, "heads": 1, "layers": 3},
    }
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    torch.save(vit_weights, tmp_path / "weights.pt")
    model = load_clip(f"tiny-test::{tmp_path / 'weights.pt'}")
    same(model, vit_weights)
    assert isinstance(model.transformer.resblocks[0].mlp.gelu, nn.GELU)
    torch.save({"logit_scale": torch.tensor(1.0)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt does not load as tiny-test"):
        load_clip(f"tiny-test::{tmp_path / 'other.pt'}")


def test_registered_names(tmp_path, vit_weights):
    register_checkpoint("tiny", tmp_path / "tiny.safetensors")
    with pytest.raises(FileNotFoundError, match="checkpoint 'tiny': no file at .*tiny.safetensors"):
        load_clip("tiny")
    safetensors.torch.save_file(vit_weights, tmp_path / "tiny.safetensors")
    same(load_clip("tiny"), vit_weights)
    with pytest.raises(ValueError, match="unknown CLIP backbone 'tinny'.*mean 'tiny'"):
        load_clip("tinny")
    with pytest.raises(ValueError, match="cannot be registered as 'RN50'"):
        register_checkpoint("RN50", tmp_path / "tiny.safetensors")


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("ViT-B/15", ValueError, "unknown CLIP backbone 'ViT-B/15'.*'ViT-B/16'"),
        ("ViT-H14", ValueError, "unknown CLIP backbone.*allowed: .*ViT-L/14@336px, ViT-H/14, .*'ViT-H/14'"),
        ("ViT-H14::laion2b_s32b_b79k", ValueError, "unknown open_clip model 'ViT-H14'.*'ViT-H-14'"),
        ("ViT-H-14::laion2b", ValueError, "unknown weights of ViT-H-14.*'laion2b_s32b_b79k'"),
        ("nowhere/model.pt", FileNotFoundError, "no file at .*nowhere/model.pt"),
        ("~/model", FileNotFoundError, "no file at .*home/model"),
        ("ViT-H-14::laion2b_s32b_b79k", FileNotFoundError, "could not get them.*ViT-H-14::/path/to/file"),
    ],
)
def test_wrong_names(source, error, message, offline):
    with pytest.raises(error, match=message) as caught:
        load_clip(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_projection": None, "logit_scale": None}, "missing: text_projection, logit_scale$"),
        ({"visual.VPT": torch.zeros(1)}, "does not have: visual.VPT"),
        ({"ln_final.bias": torch.zeros(3)}, r"ln_final.bias has shape \(3,\), but the other tensors imply \(64,\)"),
        ({"visual.positional_embedding": torch.zeros(9, 128)}, "8 image positions do not form a square"),
        (
            {"ln_final.bias": torch.ones(64, dtype=torch.complex64)},
            "ln_final.bias is of torch.complex64; allowed: ",
        ),
        ({"module.ln_final.bias": torch.ones(64)}, "holds ln_final.bias twice"),
        ({"text.ln_final.bias": torch.ones(64)}, "holds ln_final.bias twice"),
        ({"text_projection": torch.ones(64, 24).int()}, "text_projection is of torch.int32; allowed: floating point"),
        ({"text_projection": torch.zeros(3)}, "shapes are not those of a CLIP .*expected 2, got 1"),
        ({"ln_final.weight": None, **{f"transformer.resblocks.{i}.ln_1.bias": None for i in range(3)}}, "ln_final"),
    ],
)
def test_damaged_state_dicts(change, message, vit_weights, tmp_path):
    state = {name: value for name, value in {**vit_weights, **change}.items() if value is not None}
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_clip(tmp_path / "damaged.pt")
    assert str(tmp_path / "damaged.pt") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut short"])
def test_files_that_are_no_checkpoints(suffix, content, tmp_path):
    (tmp_path / f"model{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable CLIP checkpoint") as caught:
        load_clip(tmp_path / f"model{suffix}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(nn.Linear(1, 1), "not a readable CLIP checkpoint"), ([torch.zeros(1)], "no state dict: .* found list")],
)
def test_pickles_of_other_things_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path / "other.pt")


def test_the_word_table_of_the_mini_clip_is_what_its_pre_training_uses():
    """The loader and ``datasets.mini.vocabulary`` build the same table; unknown tokens differ from one another."""
    from datasets.mini.vocabulary import expand

    path = Path(__file__).resolve().parents[2] / "assets" / "mini_world" / "mini_clip.safetensors"
    stored = safetensors.torch.load_file(path)
    table = load_clip(path).token_embedding.weight
    assert torch.equal(table, expand(stored)["token_embedding.weight"])
    ids, rows, parts = (stored[f"token_embedding.{name}"] for name in ("ids", "rows", "parts"))
    torch.testing.assert_close(table[ids.long()], rows.float())
    token = next(token for token in range(len(table)) if token not in set(ids.tolist()))  # by the rule's definition
    first, second, third = (rows[int(row)].float() for row in parts[token])
    torch.testing.assert_close(table[token], (2 * first + second + third) / 4)

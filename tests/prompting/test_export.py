"""Exports of every method: the loader and ONNX against the classifier; the folder, the card and the Hub."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import safe_open

from prompting.__main__ import main
from prompting.classifier import Classifier
from prompting.export import write
from prompting.export.convert import portable
from prompting.export.onnx import onnx_session, write_int8, write_onnx
from prompting.files import work_folder
from prompting.images import Preprocess, read_image
from prompting.methods.coop import CoOp
from prompting.precision import Precision
from tests.reference.methods import METHODS, NAMES, build, draw_images, relearn, tiny_resnet, tiny_vit
from tests.reference.params import long_but

SPEED = {"peak_mb": 1.0, "images_per_second": 2.0}
EXPORTED = [name for name in METHODS if name != "CoCoOp"]
VARIANTS = [
    ("ALIGN", "READING", "released"),
    ("ALIGN", "BETA", 0.0, "IMAGE_SET", "patches"),
    ("ALIGN", "LAMBDA_TOKEN", 0.06, "LAMBDA_PROMPT", 0.05),  # in the log domain
    ("ALIGN", "COUPLING", "independent", "VISION_PROMPT_NUMBER", 3, "VISION_PROMPT_DEPTH", 2),
    ("PLOT", "TRADE_OFF", True),
    ("PLOTPP", "TRADE_OFF", True),
    ("IVLP", "PROMPT_DEPTH_VISION", 0),
    ("CLIP_LoRA", "READING", "corrected", "PARAMS", ("q", "o"), "POSITION", "up"),
    ("MMRL", "TASK", "FS"),  # the fused logits
    ("MultiModalAdapter", "ADAPTER_START", 0),
]


def exported(method, *words, clip=None, iterations=None):
    """A classifier whose prompts are not those of the start, and its exported form."""
    return export(method, relearn(build(method, *words, clip=clip)), iterations)


def export(method, model, iterations=None):
    settings = SimpleNamespace(
        method=method, classnames=tuple(NAMES), images=vars(Preprocess(tuple(model.shape.image_size)))
    )
    classifier = Classifier(model, settings, Precision.resolve("fp32", torch.device("cpu")))
    return classifier, portable(classifier, iterations)


@pytest.mark.parametrize("words", [(name,) for name in EXPORTED] + VARIANTS, ids=str)
def test_the_exported_model_gives_the_logits(words):
    classifier, form = exported(*words)
    images = draw_images(tiny_vit(), 5)
    expected = classifier(images).logits
    torch.testing.assert_close(form(images), expected, rtol=0, atol=1e-4)
    if form.config["head"]["kind"] == "transport":
        assert form.config["head"]["log"] == ("LAMBDA_TOKEN" in words)


def test_a_problem_at_its_tolerance_may_stop_elsewhere():
    _, form = exported("ALIGN", "LAMBDA_TOKEN", 0.02)
    head, raw = form.config["head"], [form.vision(draw_images(tiny_vit(), 5))]

    def logits(tol):
        head["tol"] = tol
        return form.score(raw[0])

    first, low, high = logits(0.02), 1e-4, 0.02
    while high - low > 1e-8:  # the largest tolerance at which some problem stops later than at 0.02
        middle = (low + high) / 2
        low, high = (low, middle) if torch.equal(logits(middle), first) else (middle, high)
    later = logits(low)
    assert (later - first).abs().max() > write.TOLERANCE
    head["tol"] = high
    allowed = torch.stack([first, *write.stopped_elsewhere(form, raw)])
    assert head["tol"] == high
    file = Path(write.__file__)
    assert write.compare("onnx", file, later, allowed).difference == float((later - first).abs().max())
    with pytest.raises(ValueError, match="differ from the model's by 0.00"):
        write.compare("onnx", file, later + 0.002, allowed)


def test_what_cannot_be_exported_says_so():
    class OwnScore(CoOp):
        def forward(self, images):
            return super().forward(images) ** 2

    own = build("CoOp")
    own.__class__ = OwnScore
    for method, model, message in [
        ("CoCoOp", build("CoCoOp"), "CoCoOp cannot be exported: its class features depend on the image"),
        ("OwnScore", own, "OwnScore cannot be exported: its scores are of a kind"),
        ("CoOp", build("CoOp", clip=tiny_resnet()), "the vision tower is a ModifiedResNet; only ViTs can be exported"),
    ]:
        with pytest.raises(ValueError, match=message):
            export(method, model)


needs_onnx = pytest.mark.skipif(torch.__version__ < "2.7", reason="needs torch 2.7")
RUN_BY_ONNX = [(name,) for name in EXPORTED] + [VARIANTS[i] for i in (0, 2, 8)]


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("words", long_but(RUN_BY_ONNX, ("ALIGN",), ("CoOp",), ("MaPLe",)), ids=str)
def test_onnx_gives_the_logits_of_100_images_in_batches_of_any_size(words, tmp_path):
    classifier, form = exported(*words, iterations=40 if "LAMBDA_TOKEN" in words else 12)
    write_onnx(form, tmp_path / "model.onnx")
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    score, small = (onnx_session(tmp_path / name) for name in ("model.onnx", "int8.onnx"))
    images = draw_images(tiny_vit(), 100)
    expected = classifier(images, 100).logits  # at once: the released PLOT stops by the mean over a batch
    for size in (100, 1, 7):
        torch.testing.assert_close(score(images[:size]), expected[:size], rtol=0, atol=1e-4)
    difference = (small(images) - expected).abs().max()
    assert 0 < difference < expected.std()
    assert (tmp_path / "int8.onnx").stat().st_size < 0.7 * (tmp_path / "model.onnx").stat().st_size


@needs_onnx
@pytest.mark.slow
def test_the_command_writes_a_folder_that_works_alone(run, tmp_path, capsys, monkeypatch):
    class FolderApi:
        def create_repo(self, name, exist_ok):
            (tmp_path / "hub" / name).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, folder_path, repo_id):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", FolderApi)
    assert main(["export", str(run), "--push-to-hub", "me/photos", "--csv", str(tmp_path / "e.csv")]) == 0
    out, folder = capsys.readouterr().out, run / "export"
    names = ["README.md", "load_model.py", "model.int8.onnx", "model.onnx", "model.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert sorted(p.name for p in (tmp_path / "hub/me/photos").iterdir()) == names and "https://hub/me/photos" in out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert [row[0] for row in table[2:]] == ["full model", "safetensors", "onnx", "int8"]
    assert all(float(cell) > 0 for row in table[2:] for cell in row[1:4])
    rows = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert [[row["name"], f"{float(row['size_mb']):.1f}"] for row in rows] == [row[:2] for row in table[2:]]

    # The loader, copied elsewhere, with torch and safetensors alone
    for name in ("load_model.py", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    path = run.parent / "2.png"
    classifier = Classifier.load(run)
    torch.save(classifier.preprocess(read_image(path))[None], tmp_path / "image.pt")
    code = "import sys, torch, load_model; m = load_model.load('model.safetensors');"
    code += "print(m(torch.load('image.pt')).tolist());"
    code += "assert not {'open_clip', 'prompting', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [pytest.approx(classifier(path).logits[0].tolist(), abs=1e-4)]
    assert len((folder / "load_model.py").read_text().splitlines()) <= 150

    card = (folder / "README.md").read_text()
    data = huggingface_hub.ModelCard(card).data
    accuracy = json.loads((run / "results.json").read_text())["metrics"]["test"]["accuracy"]
    assert data.library_name == "align-clip" and data.eval_results[0].metric_value == pytest.approx(accuracy / 100)
    assert "| full model" in card and "golden retriever" in card


@pytest.mark.slow
def test_mistakes_and_choices_of_the_command(run, tmp_path, capsys, monkeypatch):
    def call(*words):
        code = main(["export", str(run), "--no-measure", *map(str, words)])
        return code, *capsys.readouterr()

    code, out, err = call("--forms", "safetensors", "--output-dir", tmp_path / "a", "--classes", "cat,big dog,lynx")
    assert code == 0, err
    with safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"])["classnames"] == ["cat", "big dog", "lynx"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["README.md", "load_model.py", "model.safetensors"]
    for words, message in [
        (("--iterations", 0), "--iterations is 0"),
        (("--iterations", 1, "--forms", "safetensors"), "more iterations may help"),
        (("--images", tmp_path / "none"), "there is no file or folder"),
        (("--csv", tmp_path), "Is a directory"),
    ]:
        code, _, err = call("--output-dir", tmp_path / "b", *words)
        assert code == 2 and err.startswith("align-clip export: error: ") and message in err
    # An export that fails leaves the older one, and one of other forms keeps its files.
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert call("--output-dir", tmp_path / "a", "--iterations", 1, "--forms", "safetensors")[0] == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    (tmp_path / "a" / "model.onnx").write_bytes(b"older")
    assert call("--output-dir", tmp_path / "a", "--forms", "safetensors")[0] == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() == b"older"
    # The full model in the table is the one that is exported, with its class names.
    measured = []
    monkeypatch.setattr(write, "measure", lambda source, images: measured.append(source.name) or SPEED)
    monkeypatch.setattr(write.ModelSettings, "write", lambda made, folder: measured.append(made.classnames) or folder)
    words = ["export", run, "--output-dir", tmp_path / "d", "--forms", "safetensors", "--classes", "cat,big dog"]
    assert main(list(map(str, words))) == 0
    assert measured == [("cat", "big dog"), "run", "model.safetensors"]
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = call("--output-dir", tmp_path / "c", "--forms", "onnx")
    assert code == 2 and "pip install 'align-clip[export]'" in err


def test_onnx_with_an_older_torch_is_refused(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.6.10"))
    words = ["export", run, "--output-dir", tmp_path / "out", "--no-measure"]
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "ONNX files need torch 2.7 or later; this is 2.6.10" in line
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_second_command_in_the_same_folder_is_refused(run, tmp_path, capsys):
    words = ["--output-dir", tmp_path / "out", "--no-measure"]
    for name, place, more in (
        ("export", tmp_path / "out" / ".part", ["--forms", "safetensors"]),
        ("distill", tmp_path / ".out.part", [run.parent / "0.png", "--epochs", 1, "--workers", 0]),
    ):
        with work_folder(place, tmp_path / "out"):
            assert main([str(word) for word in (name, run, *more, *words)]) == 2
            line = f"align-clip {name}: error: another process writes to {tmp_path}/out: wait for its end"
            assert capsys.readouterr().err.splitlines()[-1].startswith(line)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (place / "new").mkdir(parents=True)  # of a process that was killed
        (place / "new" / "model.onnx").write_bytes(b"half")
        with work_folder(place, tmp_path / "out") as folder:
            assert not list(folder.iterdir())
        assert not place.exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_images_to_check_on(run):
    """The test images where they are found, else noise."""
    classifier, rows = Classifier.load(run), list(csv.DictReader((run / "predictions.csv").open()))
    images, what = write.check_images(classifier, run, None)
    assert what == "2 test images"
    assert torch.equal(images, classifier.preprocess.stack([run.parent / row["path"] for row in rows]))
    assert write.check_images(classifier, run, Path(run.parent))[1] == f"4 images of {run.parent.name}"
    (run / "predictions.csv").rename(run / "other.csv")
    assert write.check_images(classifier, run, None)[1] == "100 images of noise"
    (run / "other.csv").rename(run / "predictions.csv")

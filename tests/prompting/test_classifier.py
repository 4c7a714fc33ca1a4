"""``Classifier`` on runs of every method, against the trainer that made the run; its command; ties; preprocessing."""

import csv
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from dassl.utils import write_atomically
from PIL import Image
from torchvision.transforms import InterpolationMode

from prompting.__main__ import main
from prompting.classifier import Classifier, Predictions
from prompting.clip import TextEncoder
from prompting.files import write_file
from prompting.images import Preprocess, find_images, read_image
from prompting.ranking import likeliest
from tests.reference.methods import METHODS, NAMES, train_on_four


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Return a function that trains a method on four images, once: its trainer and its run folder."""
    made = {}

    def run(method, *words):
        if (method, words) not in made:
            folder = tmp_path_factory.mktemp("run")
            trainer = train_on_four(method, folder, *words)
            trainer.train()
            made[method, words] = trainer, folder / "out"
        return made[method, words]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_a_run_of_each_method_gives_the_probabilities_of_its_predictions_csv(run_of, method):
    trainer, out = run_of(method)
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    predictions = Classifier.load(out, device="cpu")([out.parent / row["path"] for row in rows])
    assert predictions.labels == [row["predicted_class"] for row in rows]
    for row, classes in zip(rows, predictions.top(5)):
        names, values = zip(*classes)
        assert names == tuple(NAMES[int(row[f"top_{i}"])] for i in (1, 2))
        assert values == pytest.approx([float(row[f"probability_{i}"]) for i in (1, 2)], abs=1e-5)


def test_paths_images_and_tensors_give_the_same(run_of):
    _, out = run_of("ALIGN")
    classifier, path = Classifier.load(out), out.parent / "0.png"
    image = Image.open(path)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = classifier(str(path)).logits
    assert expected.shape == (1, 2)
    tensor = classifier.preprocess(image)
    for same in (path, image, pixels, tensor, pixels[None], [path], tensor[None]):
        assert torch.equal(classifier(same).logits, expected)
    several = classifier([path, image, pixels], batch_size=2)
    torch.testing.assert_close(several.logits, expected.expand(3, 2), rtol=1e-4, atol=1e-5)
    assert several.probabilities.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert classifier([]).top(3) == [] and classifier.top(1)([path, image]) == several.top(1)[:2]
    for wrong in (torch.zeros(3, 5, 5), torch.zeros(1, 12, 12, dtype=torch.uint8), torch.zeros(12, 12)):
        with pytest.raises(ValueError, match="an image tensor is .* allowed: uint8"):
            classifier([wrong])
    for wrong in (3, None, [3], [None], np.zeros((2, 12, 12, 3))):
        with pytest.raises(TypeError, match=r"an image is of type (int|NoneType|ndarray); allowed: a path"):
            classifier(wrong)


def test_the_example_of_the_page(run_of, tmp_path, monkeypatch, capsys):
    _, out = run_of("ALIGN")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "first").symlink_to(out)
    read_image(out.parent / "0.png").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "use.md").read_text()
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], {})
    first, second, last = capsys.readouterr().out.splitlines()
    assert {first.split(":")[0], second.split(":")[0]} == {"face", "golden retriever"}
    assert last.endswith("torch.Size([2, 3])")


def test_other_classes(run_of):
    """The same names give the same scores, in any order; an added name changes no logit of the others."""
    _, out = run_of("ALIGN")
    classifier, path = Classifier.load(out), out.parent / "1.png"
    before = dict(zip(classifier.classnames, classifier(path).logits[0].tolist()))
    more = Classifier.load(out, classnames=["zebra", *reversed(classifier.classnames)])
    after = dict(zip(more.classnames, more(path).logits[0].tolist()))
    assert list(after) == ["zebra", "golden retriever", "face"]
    assert {name: after[name] for name in before} == pytest.approx(before, abs=1e-3)
    assert classifier.with_classes(["a cat"])(path).top(1) == [[("a cat", 1.0)]]
    for names in ([], "cat", ["cat", " "], ["cat", "dog", "cat"]):
        with pytest.raises(ValueError, match="class name"):
            classifier.with_classes(names)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ALIGN", "KgCoOp", "ProDA", "TCP"])
def test_other_classes_in_half_precision(run_of, method, monkeypatch):
    """The towers run under autocast, which weights in half precision need on a GPU."""
    seen, forward = [], TextEncoder.forward
    watched = lambda *a, **k: seen.append(torch.is_autocast_enabled("cpu")) or forward(*a, **k)  # noqa: E731
    _, out = run_of(method)
    classifier = Classifier.load(out, device="cpu", precision="bf16")
    monkeypatch.setattr(TextEncoder, "forward", watched)
    assert len(classifier.with_classes(["a cat", "a dog"])(out.parent / "0.png").top(2)[0]) == 2
    assert seen and all(seen)


def test_the_settings_of_a_loaded_run_make_it_again_in_any_folder(run_of, tmp_path):
    """With the CLIP that was named, the epoch and the class names."""
    _, out = run_of("ALIGN")
    path, moved = out.parent / "1.png", tmp_path / "moved.pt"
    moved.write_bytes(Path(json.loads((out / "run.json").read_text())["model"]["backbone_file"]).read_bytes())
    for names in (None, ["cat", "golden retriever", "lynx"]):
        classifier = Classifier.load(out, backbone=moved, classnames=names)
        again = classifier.settings.write(tmp_path / f"again {names}")
        assert json.loads((again / "run.json").read_text())["model"]["backbone_file"] == str(moved)
        assert Classifier.load(again).classnames == classifier.classnames
        assert torch.equal(Classifier.load(again)(path).logits, classifier(path).logits)


def test_class_specific_contexts_keep_their_classes(run_of):
    _, out = run_of("CoOp", "CSC", True, "CTX_INIT", "")
    with pytest.raises(ValueError, match="CoOp cannot take other class names: it has class-specific contexts"):
        Classifier.load(out, classnames=["cat", "dog"])


def test_threads_share_a_classifier(run_of):
    _, out = run_of("ALIGN")
    classifier = Classifier.load(out)
    paths = [out.parent / f"{i % 4}.png" for i in range(24)]
    expected = [classifier(path).logits for path in paths]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: classifier(path).logits, paths))
    assert all(map(torch.equal, found, expected))


def test_mistakes_get_one_line(run_of):
    _, out = run_of("ALIGN")
    with pytest.raises(FileNotFoundError, match="there is no folder .*; did you mean 'out'"):
        Classifier.load(out.parent / "outt")
    with pytest.raises(FileNotFoundError, match=f"is no run: it holds no run.json; runs below it: {out}"):
        Classifier.load(out.parent)
    with pytest.raises(FileNotFoundError, match=r"is no run: it holds no run.json \(a run that was trained"):
        Classifier.load(out / "MultiModalPromptLearner")
    with pytest.raises(FileNotFoundError, match="no epoch 9 .*it holds epochs 1"):
        Classifier.load(out, epoch=9)


def naive_order(scores):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_ties_go_to_the_first_class(dtype):
    scores = torch.tensor([[1, 3, 3, 2], [0, 0, 0, 0], [200, 100, 99, 201]], dtype=dtype)
    indices, probabilities = likeliest(scores, 9)
    assert indices.tolist() == [naive_order(row) for row in scores.tolist()]
    assert indices[:, 0].tolist() == scores.max(1)[1].tolist() == scores.argmax(1).tolist()
    # 200 - 99 is beyond float32's exponent: equal probabilities, but not equal scores
    assert probabilities[2].tolist() == sorted(probabilities[2].tolist(), reverse=True)
    assert Predictions(scores, tuple("abcd")).labels == ["b", "a", "d"]


@pytest.mark.parametrize("size", [(20, 33), (33, 20), (12, 12), (9, 40), (12, 13)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_preprocessing_is_that_of_an_evaluation(size, interpolation):
    image = Image.fromarray(np.random.RandomState(1).randint(0, 255, (*size, 3), dtype=np.uint8))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    steps = [T.Resize(12, interpolation=InterpolationMode(interpolation)), T.CenterCrop(12), T.ToTensor()]
    expected = T.Compose([*steps, T.Normalize(mean, std)])(image)
    torch.testing.assert_close(Preprocess((12, 12), interpolation, mean, std)(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("turn", [True, False])
def test_files_are_turned_as_in_the_training(run_of, tmp_path, turn):
    _, out = run_of("ZeroshotCLIP", "INPUT.EXIF", str(turn))
    upright, exif = read_image(out.parent / "0.png"), Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "photo.png", exif=exif)
    classifier = Classifier.load(out)
    assert torch.equal(classifier(tmp_path / "photo.png").logits, classifier(upright if turn else stored).logits)
    pixels = classifier.preprocess(classifier.preprocess.read(tmp_path / "photo.png"))
    torch.testing.assert_close(pixels, classifier.preprocess(upright if turn else stored))


def test_images_of_a_folder(tmp_path):
    """Linked folders are searched once; those above it and hidden ones are not."""
    for name in ("in/a.png", "in/.ipynb_checkpoints/a-checkpoint.png", "in/.b.png", "out/c.pgm", "out/d.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/linked").symlink_to(tmp_path / "out")
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "above.png").touch()
    (tmp_path / "in/all").symlink_to(tmp_path)
    left_out: list[Path] = []
    assert find_images([tmp_path / "in"], left_out) == [tmp_path / "in/a.png", tmp_path / "in/linked/c.pgm"]
    assert left_out == [tmp_path / "in/linked/d.heic"]


def call(capsys, *words):
    capsys.readouterr()  # a run made just before prints
    code = main(["predict", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_command(run_of, tmp_path, capsys):
    _, out = run_of("ALIGN")
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for i, place in enumerate(("a.png", "b.png", "more/c.png")):
        read_image(out.parent / f"{i}.png").save(photos / place)
    code, printed, _ = call(capsys, out, photos, "--top", 1)
    names = Classifier.load(out)([photos / "a.png", photos / "b.png", photos / "more/c.png"]).labels
    assert code == 0 and [line.split(": ")[1].rsplit(" ", 1)[0] for line in printed.splitlines()] == names

    (photos / "b.png").write_bytes(b"no image")
    (tmp_path / "names.txt").write_text("cat\nbig dog\n\nlynx\n")
    files = "--csv", tmp_path / "p.csv", "--json", tmp_path / "p.json", "--figure", tmp_path / "p.png"
    code, _, err = call(capsys, out, photos, *files, "--classes-file", tmp_path / "names.txt", "--top", 2)
    assert code == 1 and f"skipped: {photos / 'b.png'} is not a readable image" in err and "1 of 3 images" in err
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert list(rows[0]) == ["path", "class_1", "probability_1", "class_2", "probability_2"]
    with Image.open(tmp_path / "p.png") as picture:
        assert min(picture.size) > 200
    content = json.loads((tmp_path / "p.json").read_text())
    assert [row["path"] for row in rows] == [item["path"] for item in content]
    assert {row["class_1"] for row in rows} <= {"cat", "big dog", "lynx"}
    assert float(rows[0]["probability_1"]) == pytest.approx(content[0]["classes"][0]["probability"], rel=1e-5)

    for words, message in [
        ((out, tmp_path / "none.png"), "there is no file or folder"),
        ((out, out), "holds no image"),
        ((out, photos, "--top", 0), "--top is 0"),
        ((out.parent, photos), "is no run"),
        ((out, photos, "--classes", " , "), "class names must be"),
        ((out, photos, "--classes", "caf\u00e9,cafe\u0301"), "are the same to this CLIP: they have the same tokens"),
        ((out, photos, "--classes", "cat,"), "'cat' is the only class name"),
        ((out, photos, "--classes", "cat,d\0g"), "has a line break, a control character"),
        ((out, photos, "--csv", ""), "--csv is empty"),
        (("", photos), "RUN is empty"),
        ((out, photos / "a.png", "--csv", "/dev/full"), "/dev/full cannot be written: No space left"),
    ]:
        code, _, err = call(capsys, *words)
        assert code == 2 and err.startswith("align-clip predict: error: ") and message in err and err.count("\n") == 1


def model(**changes):
    """Return a function that changes the entry ``model`` of a run.json."""
    return lambda run: {**run, "model": {**run["model"], **changes}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: "[" * 100_000, "run.json is damaged"),
        (lambda run: [1], "run.json is damaged (a list"),
        (lambda run: {**run, "classnames": [None, "dog"]}, "run.json is no file of a run"),
        (lambda run: {**run, "model": None}, "an older version wrote it"),
        (model(method="ALIGNN"), "did you mean 'ALIGN'"),
        (model(backbone_file="", backbone="/no/c.pt"), "--backbone FILE"),
        (model(options=None), "run.json is damaged: its options"),
        (model(checkpoint=3), "run.json is damaged: its checkpoint"),
        (model(options={"x": 1}), "cannot be built from its run.json"),
        (model(images={"size": [0, 12]}), "size of the images is (0"),
        (model(images={"size": [12, 12], "mean": [1]}), "mean of the imag"),
        (model(saved_part="nope"), "no attribute `nope`"),
        (model(images={"size": [12, 12], "turn": 1}), "true or false"),
        (lambda run: {**run, "loaded_from": 3}, "is damaged: TypeError"),
        (lambda run: {**run, "loaded_from": "a/b/c", "config": {}}, "is damaged: KeyError 'DATASET'"),
        (lambda run: json.dumps(run)[:-1] + ', "classnames": ["x", "y", "z"]}', "the key 'classnames' is in it twice"),
    ],
)
def test_damaged_run_files_are_named(run_of, tmp_path, capsys, change, words):
    _, out = run_of("ZeroshotCLIP")
    content = change(json.loads((out / "run.json").read_text()))
    (tmp_path / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    code, _, err = call(capsys, tmp_path, out.parent / "0.png")
    assert code == 2 and words in err and err.count("\n") == 1 and len(err) < 1500


def test_run_files_that_say_something_else_are_refused(run_of, tmp_path, capsys):
    """Options of another type, no checkpoint, and other classes than those that class-specific contexts are for."""
    _, out = run_of("CoOp", "CSC", True, "CTX_INIT", "")
    for change, words in (
        (lambda run: run["model"]["options"].update(ctx_init=7), "ctx_init is 7; allowed: text"),
        (lambda run: run["model"]["options"].update(csc=1), "csc is 1; allowed: true or false"),
        (lambda run: run["model"].update(checkpoint=""), "it names no checkpoint"),
        (lambda run: run["classnames"].reverse(), "was trained on the classes"),
    ):
        place = tmp_path / words
        shutil.copytree(out, place)
        run = json.loads((place / "run.json").read_text())
        change(run)
        (place / "run.json").write_text(json.dumps(run))
        code, _, err = call(capsys, place, out.parent / "0.png")
        assert code == 2 and words in err and str(place) in err and err.count("\n") == 1


def test_scores_that_are_not_finite_are_no_probabilities(run_of, monkeypatch):
    _, out = run_of("CoOp")
    classifier = Classifier.load(out)
    monkeypatch.setattr(classifier, "model", lambda images: torch.full((len(images), 3), float("nan")))
    classifier.model.logit_scale = torch.ones(())
    with pytest.raises(ValueError, match="no probabilities: scores holds 3 NaN"):
        classifier(out.parent / "0.png")


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta"])
def test_devices_that_are_not_there(run_of, capsys, name):
    _, out = run_of("ZeroshotCLIP")
    code, _, err = call(capsys, out, out.parent / "0.png", "--device", name)
    assert code == 2 and f"there is no device '{name}'" in err and "allowed here: cpu" in err and err.count("\n") == 1


def test_any_error_is_one_line(run_of, tmp_path, capsys, monkeypatch):
    _, out = run_of("ZeroshotCLIP")
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
    code, _, err = call(capsys, out, out.parent / "0.png", "--classes-file", tmp_path / "names.txt")
    assert code == 2 and "names.txt is not UTF-8 text" in err and err.count("\n") == 1
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: {}["gone"])
    code, _, err = call(capsys, out, out.parent / "0.png")
    assert code == 2 and "'gone' (KeyError in test_classifier.py:" in err and err.count("\n") == 1
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: (_ for _ in ()).throw(BrokenPipeError()))
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert call(capsys, out, out.parent / "0.png") == (141, "", "")


def test_tables_are_written_whole_with_any_name(run_of, tmp_path, capsys, monkeypatch):
    _, out = run_of("ZeroshotCLIP")
    image, table, listing = tmp_path / os.fsdecode(b"caf\xe9.png"), tmp_path / "p.csv", tmp_path / "p.json"
    image.write_bytes((out.parent / "0.png").read_bytes())
    assert call(capsys, out, image, "--csv", table, "--json", listing)[0] == 0
    assert b"caf\xe9.png," in table.read_bytes() and json.loads(listing.read_text())[0]["path"] == str(image)
    before = table.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    code, _, err = call(capsys, out, image, "--top", 1, "--csv", table)
    assert code == 2 and "p.csv" in err and table.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*")) == sorted([image.name, "p.csv", "p.json"])


@pytest.mark.parametrize(
    "write",
    [write_file, lambda path, content: write_atomically(str(path), lambda part: Path(part).write_bytes(content))],
)
def test_a_file_that_several_write_at_once_is_one_of_theirs(tmp_path, write):
    contents = [bytes([65 + i]) * 300_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write(tmp_path / "p.csv", content), contents * 4))
    assert (tmp_path / "p.csv").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


def test_tables_that_cannot_be_written_are_refused_before_the_work(run_of, tmp_path, capsys, monkeypatch):
    _, out = run_of("ZeroshotCLIP")
    monkeypatch.setattr(Classifier, "load", None)
    (tmp_path / "file").touch()
    for words, message in [
        (["--csv", tmp_path], f"Is a directory: '{tmp_path}'"),
        (["--json", tmp_path / "file" / "new" / "p.json"], "Not a directory: "),
        (["--csv", tmp_path / "a", "--json", tmp_path / "a"], "--csv, --json and --figure must name different files"),
    ]:
        code, _, err = call(capsys, out, out.parent / "0.png", *words)
        assert code == 2 and message in err and err.count("\n") == 1, err
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, whom no mode stops
    for path in (tmp_path / "new" / "p.csv", tmp_path / "file"):
        code, _, err = call(capsys, out, out.parent / "0.png", "--csv", path)
        assert code == 2 and f"Permission denied: '{path}'" in err


def test_coprompt_takes_any_class_names_without_its_sentences(tmp_path, monkeypatch, caplog):
    """They are the teacher's in the loss: neither their folder nor a sentence about a new class is needed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt_file").mkdir()
    sentences = tmp_path / "gpt_file" / "FourImages_prompt.json"
    sentences.write_text(json.dumps({name: [f"a {name}.", f"see {name}."] for name in NAMES}))
    trainer = train_on_four("CoPrompt", tmp_path)
    trainer.train()
    path, names = tmp_path / "2.png", [*NAMES[:2], "zebra"]
    image = Classifier.load("out").preprocess(read_image(path))
    expected = trainer.model.eval()(image[None])[0].tolist()
    for there in (True, False):
        caplog.clear()
        classifier = Classifier.load("out", classnames=names)
        assert classifier(path).logits[0, :2].tolist() == pytest.approx(expected[:2], abs=1e-3)
        assert not caplog.messages
        with pytest.raises(ValueError, match="built for prediction, without the teacher's sentences"):
            classifier.model.loss_terms(torch.zeros(1, 3, 12, 12), torch.tensor([0]))
        if there:
            sentences.unlink()

"""Distillation: the loss by loops, the student against the CLIP that it starts from, its files, and the command."""

import csv
import json
import math
import sys

import pytest
import torch
from PIL import Image

from prompting.__main__ import main
from prompting.distill import write
from prompting.distill.student import make_student
from prompting.distill.training import Settings, Views, distillation_loss, order, teacher_probabilities, train
from prompting.export import portable as loader
from prompting.export.write import write_form
from prompting.images import Preprocess, read_image
from tests.prompting.test_export import exported
from tests.reference.methods import build, draw_images, tiny_vit

CPU = torch.device("cpu")


def zero_shot():
    return exported("ZeroshotCLIP")[1]


@pytest.fixture
def pictures(tmp_path):
    """Six files of noise, taller than wide."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        pixels = torch.randint(0, 256, (20, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(path)
    return paths


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_divergence_by_loops(temperature):
    stream = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(4, 5, generator=stream, dtype=torch.float64) for _ in range(2))

    def softmax(row):
        parts = [math.exp(z / temperature) for z in row]
        return [part / sum(parts) for part in parts]

    total, slopes = 0.0, []
    for t, s in zip(teacher.tolist(), student.tolist()):
        p, q = softmax(t), softmax(s)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q))
        slopes.append([temperature / 4 * (b - a) for a, b in zip(p, q)])  # d/dz of T^2 / B sum_b KL(p_b || q_b)
    student.requires_grad_(True)
    loss = distillation_loss(student, (teacher / temperature).softmax(1), temperature)
    loss.backward()
    assert loss.item() == pytest.approx(temperature**2 * total / 4, rel=1e-9)
    torch.testing.assert_close(student.grad, torch.tensor(slopes, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    certain = torch.eye(5, dtype=torch.float64)[:4]  # 0 log 0 is 0
    assert distillation_loss(student, certain, temperature).isfinite()


@torch.no_grad()
def test_a_student_starts_from_some_blocks_of_the_clip():
    start, images = zero_shot(), draw_images(tiny_vit(), 3)
    assert len(start.vision.blocks) == 3
    assert torch.equal(make_student(start, 3)(images), start(images))
    for layers, kept in ((None, (0, 1)), (2, (0, 1)), (1, (0,))):
        student = make_student(start, layers)
        cut = zero_shot()
        cut.vision.blocks = torch.nn.ModuleList([cut.vision.blocks[i] for i in kept])
        assert torch.equal(student(images), cut(images))
    assert {name for name, tensor in student.named_parameters() if not tensor.requires_grad} == {"features.shares"}


def test_a_student_of_another_width_is_drawn_from_the_seed():
    start, images = zero_shot(), draw_images(tiny_vit(), 3)
    head = start.config["vision"]["width"] // start.config["vision"]["heads"]

    def drawn(seed):
        torch.manual_seed(seed)
        return make_student(start, 2, head)(images)

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert drawn(1).std() > 0 and drawn(1).shape == (3, 3)
    for words, message in (((4,), "layers is 4; allowed: 1 to 3"), ((1, head + 1), "allowed: multiples of")):
        with pytest.raises(ValueError, match=message):
            make_student(start, *words)


def test_views_are_fixed_crops_and_the_first_is_that_of_an_evaluation(pictures):
    preprocess = Preprocess((12, 12))
    views, again = Views(pictures, preprocess, 3, seed=1), Views(pictures, preprocess, 3, seed=1)
    assert len(views) == 18
    for index in (17, 0, 4, 3):
        number, image = views[index]
        assert number == index and image.shape == (3, 12, 12) and torch.equal(image, again[index][1])
    assert torch.equal(views[3][1], preprocess(read_image(pictures[1])))
    assert not torch.equal(views[4][1], views[3][1]) and not torch.equal(views[4][1], views[5][1])
    assert not torch.equal(views[4][1], Views(pictures, preprocess, 3, seed=2)[4][1])


def test_each_epoch_takes_every_image_once():
    items = order(6, Settings(epochs=4, views=3))
    epochs = [items[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(item // 3 for item in epoch) == list(range(6)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4 and {item % 3 for item in items} == {0, 1, 2}


@pytest.mark.slow
def test_training_brings_the_student_to_the_teacher_and_its_file_gives_the_same_numbers(pictures, tmp_path):
    settings = Settings(epochs=30, lr=2e-3, temperature=1.0, views=2, batch_size=4, workers=0)
    views = Views(pictures, Preprocess((12, 12)), 2, settings.seed)
    teacher = teacher_probabilities(build("ALIGN").eval().requires_grad_(False), views, settings)
    assert teacher.shape == (12, 3) and torch.allclose(teacher.sum(1), torch.ones(12))

    def trained():
        student = make_student(zero_shot())
        return student, train(student, views, teacher, settings, CPU)

    (student, losses), (same, _) = trained(), trained()
    assert len(losses) == 30 and losses[-1] < 0.1 * losses[0]
    images = torch.stack([image for _, image in views])
    logits = student(images)
    assert torch.equal(logits, same(images)) and not logits.requires_grad
    write_form("safetensors", student, tmp_path)
    assert torch.equal(loader.load(str(tmp_path / "model.safetensors"))(images), logits)


QUICK = ("--epochs", 1, "--views", 1, "--workers", 0)


@pytest.mark.long
def test_the_command_writes_a_student_with_its_table_and_card(run, tmp_path, capsys):
    words = ["distill", run, run.parent, "--output-dir", tmp_path / "student", *QUICK]
    assert main([str(word) for word in words]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "student"
    assert "2 images without labels; 2 test images are left out" in out
    names = ["README.md", "distill.csv", "distill.json", "load_model.py"]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "model.int8.onnx", "model.onnx", "model.safetensors"]
    forms = ["zero-shot", "teacher", "teacher int8", "student", "student int8"]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert [row[0] for row in table[2:]] == forms and all(float(cell) > 0 for row in table[2:] for cell in row[2:])
    rows = list(csv.DictReader((folder / "distill.csv").open()))
    assert [row["form"] for row in rows] == forms and {row["images"] for row in rows} == {"2"}
    tested = json.loads((run / "results.json").read_text())["metrics"]["test"]["accuracy"]
    assert float(rows[1]["accuracy"]) == pytest.approx(tested)
    images = Preprocess((12, 12)).stack([run.parent / f"{i}.png" for i in (2, 3)])
    guesses = loader.load(str(folder / "model.safetensors"))(images).argmax(1)
    test = list(csv.DictReader((run / "predictions.csv").open()))
    labels = {row["path"]: int(row["label"]) for row in test}
    right = sum(int(guess) == labels[f"{i}.png"] for i, guess in zip((2, 3), guesses))
    assert float(rows[3]["accuracy"]) == 50 * right
    card = (folder / "README.md").read_text()
    assert "| student int8" in card and "repeat the answers of\nALIGN" in card and "2 images without labels" in card


@pytest.mark.slow
def test_an_interruption_and_mistakes_leave_nothing_behind(run, tmp_path, capsys, monkeypatch):
    place = tmp_path / "outputs"

    def call(*words, images=run.parent, out=place / "student"):
        code = main([str(w) for w in ("distill", run, images, "--output-dir", out, "--no-measure", *QUICK, *words)])
        return code, capsys.readouterr().err

    def stop(*args):
        raise KeyboardInterrupt

    test_image = (run.parent / "2.png").read_bytes()
    for name, content in ("tests/copy.png", test_image), ("text/no.png", b"no picture"), ("thesis/thesis.txt", b"mine"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    for words, options, message in [
        (("--layers", 9), {}, "layers is 9; allowed: 1 to 3"),
        (("--temperature", 0), {}, "temperature is 0.0; allowed: a finite number > 0"),
        (("--epochs", 0), {}, "epochs is 0; allowed: an integer >= 1"),
        (("--lr", 1e30, "--epochs", 5), {}, "the loss is"),
        ((), {"images": tmp_path / "nowhere"}, "there is no file or folder"),
        ((), {"images": tmp_path / "tests"}, "all 1 images are test images"),
        ((), {"images": tmp_path / "text"}, "no.png is not a readable image"),
        ((), {"out": tmp_path / "thesis"}, "exists and is not empty"),
    ]:
        code, err = call(*words, **options)
        last = err.splitlines()[-1]
        assert code == 2 and last.startswith("align-clip distill: error: ") and message in last, err
        assert not place.exists() or not list(place.iterdir())
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"
    monkeypatch.setattr(write, "train", stop)
    assert call()[0] == 130 and not list(place.iterdir())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, err = call()
    assert code == 2 and "pip install 'align-clip[export]'" in err


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with write.new_folder(tmp_path / "link") as part:
        (part / "README.md").write_text("card")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["README.md"] and (tmp_path / "link").is_symlink()
    with pytest.raises(FileExistsError, match="not empty"), write.new_folder(tmp_path / "link"):
        pass

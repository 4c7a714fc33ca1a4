"""``explain``: the plans that the scores are made of, words, features, curves, and runs loaded from their folders."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from prompting.__main__ import main
from prompting.classifier import Classifier
from prompting.clip.shape import text_tower
from prompting.clip.tokens import clip_tokenizer
from prompting.explain import ClassPlan, evenness, transport_plans
from prompting.explain.curves import draw_panel, read_curves, uniform_prompts
from prompting.explain.embedding import image_features, nearest_is_same
from prompting.explain.likeliest_figure import likeliest_figure
from prompting.explain.plan_figure import UNIFORM, how_even
from prompting.explain.plans import token_word
from prompting.explain.style import drawable_name
from prompting.explain.words import drawable, in_words, nearest_words, word_spacing, words_figure
from prompting.run_folder import images_of_test
from tests.reference.run_folders import CLASSES, tiny_clip, write_run

GUESSES = [0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 2, 2]
SMALL = {
    "ALIGN": ("TRAINER.ALIGN.TEXT_PROMPT_DEPTH", 2, "TRAINER.ALIGN.VISION_PROMPT_DEPTH", 2),
    "MMP": ("TRAINER.MMP.TEXT_PROMPT_DEPTH", 2),
    "CoOp": ("TRAINER.COOP.N_CTX", 2),
    "CoCoOp": ("TRAINER.COCOOP.N_CTX", 2),
    "PLOT": ("TRAINER.PLOT.N_CTX", 2),
}


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def make_run(tmp_path, clip_file):
    """Return a function that writes the run of a method and returns its folder and its model."""

    def make(method, *words):
        model = write_run(tmp_path / method, method, clip_file, tmp_path, GUESSES, *SMALL.get(method, ()), *words)
        return tmp_path / method, model

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(model, images, plans):
    """Eq. 6 and 7 (or those of the released code) for given plans, with a loop over images, classes and pairs."""
    z, h, r, s, _ = model.head_input(images)
    released, rows = model.head.settings.reading == "released", []
    for b, found in enumerate(plans):
        row = {}
        for one in found.classes:
            total = 0.0
            for m in range(one.plan.shape[0]):
                for n in range(one.plan.shape[1]):
                    score = F.cosine_similarity(z[b, m], h[one.label, n], dim=0)
                    if one.tokens is not None and not released:
                        words = s[one.label, n, : one.tokens.shape[-1]]
                        cosines = F.cosine_similarity(r[b, m][:, None], words[None], dim=-1)
                        score = score - (one.tokens[m, n] * (1 - cosines)).sum()
                    total += one.plan[m, n] * score
            row[one.label] = total
        rows.append([row[k] for k in range(len(row))])
    return model.logit_scale * torch.tensor(rows)


@pytest.mark.parametrize("method", ["ALIGN", "MMP", "PLOT", "PLOTPP"])
def test_the_logits_are_made_of_these_plans(make_run, images, method):
    _, model = make_run(method)
    plans = transport_plans(model, images, CLASSES, top=3)
    with torch.no_grad():
        logits = model(images)
    torch.testing.assert_close(logits_of(model, images, plans), logits, atol=2e-4, rtol=1e-4)
    for found, probability in zip(plans, logits.softmax(-1)):
        expected = probability.sort(descending=True)[0].tolist()
        assert [one.probability for one in found.classes] == pytest.approx(expected)
        assert [one.name for one in found.classes] == [CLASSES[one.label] for one in found.classes]
        for one in found.classes:
            assert float(one.plan.sum()) == pytest.approx(1, abs=1e-4)
            if one.tokens is not None:
                torch.testing.assert_close(one.tokens.sum((-2, -1)), torch.ones(one.plan.shape), atol=1e-4, rtol=0)


def test_given_classes_and_their_words(make_run, images):
    _, model = make_run("ALIGN")
    found = transport_plans(model, images, CLASSES, labels=[[2], [1, 0]])
    assert [[one.label for one in plan.classes] for plan in found] == [[2], [1, 0]]
    assert found[1].classes[1].words[0] == ["[1]", "[2]", "red", "fox"]
    assert found[0].classes[0].tokens.shape[-1] == 5  # [1] [2] green & gold
    _, released = make_run("MMP")
    words = transport_plans(released, images, CLASSES, labels=[[0], [0]])[0].classes[0].words
    assert words[0] == ["[start]", "[1]", "[2]", "of", "a", "red", "fox"]
    assert words[1][3:] == words[0][5:] + words[1][5:]


def test_heat_is_one_for_a_uniform_plan_and_all_of_it_where_the_mass_is():
    tokens = torch.full((1, 1, 6, 2), 1 / 12)  # four patches and two learned vectors, two words
    one = ClassPlan(0, "a", 1.0, torch.ones(1, 1), tokens, [["[1]", "a"]])
    torch.testing.assert_close(one.heat(0, 0, (2, 2)), torch.ones(2, 2, 2))
    torch.testing.assert_close(one.on_prompts(0, 0, 4), torch.full((2,), 1 / 3))
    single = torch.zeros(1, 1, 6, 2)
    single[0, 0, 3] = torch.tensor([0.5, 0.0])
    single[0, 0, 5] = torch.tensor([0.0, 0.5])
    one = ClassPlan(0, "a", 1.0, torch.ones(1, 1), single, [["[1]", "a"]])
    assert one.heat(0, 0, (2, 2)).tolist() == [[[0, 0], [0, 6]], [[0, 0], [0, 0]]]
    assert one.on_prompts(0, 0, 4).tolist() == [0, 1]


def test_evenness_and_the_heaviest_pairs():
    assert evenness(torch.full((3, 5), 1 / 15)) == pytest.approx(1)
    assert evenness(torch.eye(4) / 4) == pytest.approx(0.5)  # ln 4 / ln 16
    nearly = torch.tensor([[0.26, 0.24], [0.24, 0.26]])
    assert how_even(nearly) == UNIFORM != how_even(torch.tensor([[0.27, 0.23], [0.23, 0.27]]))
    plan = torch.tensor([[0.1, 0.4], [0.3, 0.2]])
    assert ClassPlan(0, "a", 1.0, plan, None, []).heaviest(3) == [(0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("method", ["ALIGN", "CoCoOp"])
def test_a_run_is_loaded_from_its_folder_and_from_that_of_its_evaluation(make_run, images, method):
    folder, model = make_run(method)
    expected = model(images).detach()
    torch.testing.assert_close(Classifier.load(folder)(images).logits, expected)
    path = folder / "eval" / "results.json"  # on other classes of another data set
    results = json.loads((folder / "results.json").read_text())
    results |= {"classnames": CLASSES[1:], "loaded_from": str(next(folder.glob("*/model.pth.tar-2")))}
    results["config"]["DATASET"]["NAME"] = "OxfordPets"
    path.parent.mkdir()
    path.write_text(json.dumps(results))
    evaluated = Classifier.load(path.parent)
    assert evaluated.settings.dataset == "OxfordPets" and evaluated.classnames == tuple(CLASSES[1:])
    torch.testing.assert_close(evaluated(images).logits, expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_a_run_without_a_checkpoint_is_refused(make_run):
    folder, _ = make_run("CoOp")
    (folder / "prompt_learner" / "model.pth.tar-2").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*prompt_learner"):
        Classifier.load(folder)


def test_nearest_words_are_those_whose_embeddings_the_vectors_hold(make_run):
    _, model = make_run("CoOp")
    table, encode = text_tower(model.clip).token_embedding.weight, clip_tokenizer().encode
    model.prompt_learner.ctx.data = table[[*encode("dog"), *encode("cat")]].detach().clone()
    first, second = nearest_words(model, 2)
    assert first.words[0] == "dog" and second.words[0] == "cat"
    assert first.distances[0] == pytest.approx(0, abs=1e-2) and first.distances[1] > 1
    assert [first.name, second.name] == ["prompt 1, [1]", "prompt 1, [2]"]
    spacing = word_spacing(model)
    assert in_words([first, second], spacing).startswith("2 of 2 vectors are as near to a word as a word is to")
    model.prompt_learner.ctx.data[1] += 3 * spacing  # in each dimension
    found = nearest_words(model, 2)
    assert in_words(found, spacing).startswith("1 of 2 vectors")
    (axes,) = words_figure(found, spacing, "words").axes
    assert axes.images[0].get_array().tolist() == [[True, False], [False, False]]
    _, vpt = make_run("VPT")
    with pytest.raises(ValueError, match="VPT learns no text vectors"):
        nearest_words(vpt)


def test_word_spacing_is_the_median_distance_to_the_nearest_other_word(make_run):
    _, model = make_run("CoOp")
    table = text_tower(model.clip).token_embedding.weight
    with torch.no_grad():
        table.copy_(torch.arange(len(table)).pow(2)[:, None].expand_as(table))  # nearest: the word below
        table[:100] = 0  # words that never occurred in the training do not count
    first, last, width = 100, len(table) - 1, table.shape[1] ** 0.5
    gaps = [((i**2 - (i - 1) ** 2) if i > first else (i + 1) ** 2 - i**2) * width for i in range(first, last + 1)]
    middle = sorted(gaps)[len(gaps) // 2]
    assert word_spacing(model) == pytest.approx(middle, rel=0.01)


def test_words_are_text_and_can_be_drawn():
    (doughnut,), (dog,) = clip_tokenizer().encode("\N{DOUGHNUT}"), clip_tokenizer().encode("dog")
    assert [token_word(doughnut), token_word(dog)] == ["\N{DOUGHNUT}", "dog"]
    assert drawable("\N{DOUGHNUT}s") == "<doughnut>s" and drawable("dog\N{GREEK SMALL LETTER ALPHA}") == "dogα"


def test_image_features_with_and_without_visual_prompts(make_run, images):
    _, model = make_run("ALIGN")
    before, after = image_features(model, images)
    plain = F.normalize(model.clip.encode_image(images), dim=-1)
    torch.testing.assert_close(before, plain, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, after, atol=1e-3)
    with pytest.raises(ValueError, match="CoOp learns no visual prompts"):
        image_features(make_run("CoOp")[1], images)


def test_the_nearest_image_of_pairs():
    features = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=-1)
    assert nearest_is_same(features, [0, 0, 1, 1]).tolist() == [True] * 4
    assert nearest_is_same(features, [0, 1, 2, 2]).tolist() == [False, False, True, True]


def test_images_come_evenly_from_the_classes(make_run):
    folder, _ = make_run("ALIGN")
    paths, labels = images_of_test(folder, folder.parent, 7)
    assert sorted(labels) == [0, 0, 0, 1, 1, 2, 2] and all(path.is_file() for path in paths)
    with pytest.raises(FileNotFoundError, match="--root"):
        images_of_test(folder, folder, 7)


def test_tables_of_test_images_with_any_name_or_damaged(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    (tmp_path / "predictions.csv").write_bytes(b"path,label\ncaf\xe9.png,0\n")
    assert images_of_test(tmp_path, tmp_path, 7) == ([tmp_path / os.fsdecode(b"caf\xe9.png")], [0])
    for content in ("path\na.png\n", "a.png,0\n", "path,label\na.png,first\n", "path,label\na.png\n"):
        (tmp_path / "predictions.csv").write_text(content)
        with pytest.raises(ValueError, match="predictions.csv is damaged: "):
            images_of_test(tmp_path, tmp_path, 7)


def test_curves_are_read_by_epoch(make_run):
    folder, _ = make_run("ALIGN")
    panels = {panel.title: panel for panel in read_curves(folder)}
    loss = panels["loss"].lines["training"]
    assert [x for x, _ in loss] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2]) and loss[-1][1] == 0.5
    assert list(panels["accuracy (%)"].lines) == ["training"]
    entropy = panels["entropy of the plans (nats)"]
    assert [x for x, _ in entropy.lines["token level"]] == [1, 2] and entropy.uniform == (2.75, 4.75)
    assert panels["problems not converged (%)"].lines["prompt level"][0][1] == 25
    assert "iterations of the transport" not in panels  # not among the written values
    axes = Figure().subplots()
    draw_panel(axes, entropy)
    dashed = [line.get_ydata()[0] for line in axes.lines if line.is_dashed()]
    assert dashed == [2.75, 4.75]  # each level's own
    assert uniform_prompts(folder) == (math.log(16),) and uniform_prompts(make_run("CoOp")[0]) == ()


def test_files_of_several_folders_can_be_told_apart():
    assert [drawable_name(Path("photos/cat/1.jpg"), parts) for parts in (1, 2)] == ["1.jpg", "cat/1.jpg"]


def test_the_bars_of_a_prediction_are_its_probabilities():
    classes = [[("cat", 0.75), ("dog", 0.25)], [("dog", 1.0), ("cat", 0.0)]]
    figure = likeliest_figure([Image.new("RGB", (8, 8))] * 2, ["a.png", "$b^$.png"], classes, "What ALIGN sees")
    photos, bars = figure.axes[::2], figure.axes[1::2]
    assert [axes.get_title("left") for axes in photos] == ["a.png", "$b^$.png"]
    for axes, found in zip(bars, classes):
        assert [text.get_text() for text in axes.texts] == [t for name, p in found for t in (name, f"{p:.1%}")]
        assert [bar.get_width() for bar in axes.patches] == [w for _, p in found for w in (1, p)]  # on a frame of 100 %


@pytest.mark.slow
@pytest.mark.parametrize("method, what", [("ALIGN", "plan"), ("PLOT", "plan"), ("PLOTPP", "plan"), ("CoOp", "words")])
def test_the_command_draws(make_run, capsys, tmp_path, method, what):
    folder, _ = make_run(method)
    for label in (0, 1):
        for path in sorted((tmp_path / "pictures" / str(label)).glob("[1-9]*")):
            path.unlink()
    words = [str(tmp_path / "pictures" / "0"), str(tmp_path / "pictures" / "1" / "0.png")]  # a folder and a file
    assert main(["explain", str(folder), what, *(words if what == "plan" else [])]) == 0
    written = capsys.readouterr().out.split("\n")
    made = sorted(path.name for path in (folder / "explain").iterdir())
    assert made == (["plan-0-2.png", "plan-0.png"] if what == "plan" else ["words.csv", "words.png"])
    for name in made:
        assert any(line.endswith(name) for line in written)
        if name.endswith(".png"):
            with Image.open(folder / "explain" / name) as image:
                assert min(image.size) > 200
    if method == "ALIGN":  # an unreadable image costs the others nothing
        broken = tmp_path / "pictures" / "0" / "00.png"
        broken.write_bytes(b"none")
        shutil.rmtree(folder / "explain")
        assert main(["explain", str(folder), what, *words]) == 1
        err = capsys.readouterr().err
        assert f"skipped: {broken} is not a readable image" in err and "1 of 3 images could not be read" in err
        assert sorted(path.name for path in (folder / "explain").iterdir()) == made
    if what == "words":
        with (folder / "explain" / "words.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == 2 * 5


@pytest.mark.slow
def test_names_of_any_letters_are_drawn(make_run, tmp_path):
    folder, _ = make_run("ALIGN")
    image = os.fsencode(tmp_path / "pictures" / "0") + b"/$x_^$\xff.png"
    shutil.copy(tmp_path / "pictures" / "0" / "0.png", image)
    words = ["plan", os.fsdecode(image), "--classes", "cash$_^$,lira", "--output-dir", str(tmp_path / "drawn")]
    assert main(["explain", str(folder), *words]) == 0
    assert [os.fsencode(path.name) for path in (tmp_path / "drawn").iterdir()] == [b"plan-$x_^$\xff.png"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["embed", "curves"])
def test_the_command_draws_embeddings_and_curves(make_run, what):
    folder, _ = make_run("ALIGN")
    assert main(["explain", str(folder), what]) == 0 and (folder / "explain" / f"{what}.png").stat().st_size > 5000


def test_empty_words_are_refused(capsys):
    for words, empty in ((["", "words"], "RUN"), (["run", "words", "--output-dir", ""], "--output-dir")):
        assert main(["explain", *words]) == 2
        assert capsys.readouterr().err.startswith(f"align-clip explain: error: {empty} is empty: ")


def test_a_mistake_is_one_line(make_run, capsys, tmp_path):
    folder, _ = make_run("CoOp")
    assert main(["explain", str(folder), "plan", str(tmp_path / "pictures" / "0" / "0.png")]) == 2
    assert not (folder / "explain").exists()
    line = "CoOp has no transport plan; methods that have one: ALIGN, MMP, PLOT, PLOTPP"
    assert capsys.readouterr().err.startswith(f"align-clip explain: error: {line}")

"""CoPrompt: sentences from files, the second view, adapters, and its kinds of distance."""

import json
import random

import pytest
import torch
import torch.nn.functional as F

from tests.reference.methods import NAMES, build, draw_images, relearn, tiny_vit, train_on_four

LABELS = torch.tensor([0, 2])


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "oxford_pets_prompt.json").write_text(json.dumps(content))
    return ("SENTENCES", str(folder), "DATASET.NAME", "OxfordPets")


def test_a_sentence_is_drawn_in_each_step(tmp_path):
    """Sentence j of every class, by Python's random numbers."""
    content = {name: [f"a {name}.", f"{name} there.", f"see {name}."] for name in NAMES}
    model = relearn(build("CoPrompt", "W", 8.0, *write(tmp_path, content)))
    images = draw_images(tiny_vit())
    targets = model.get_buffer("teacher_text")
    assert targets.shape[:2] == (3, 3)
    text = model.features(images)[1]
    random.seed(3)
    picks = [random.randrange(3) for _ in range(6)]
    random.seed(3)
    found = [model.loss_terms(images, LABELS)[0]["text"] for _ in range(6)]
    expected = [8 * (1 - F.cosine_similarity(text, targets[j]).mean()) for j in picks]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(set(picks)) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("airplane"), "has no sentences for 1 of 3 classes, first 'airplane'"),
        (lambda c: c["face"].append("more"), r"has \[2, 3\] sentences for its classes; each needs the same number"),
        (lambda c: c.update(face="ab", airplane="cd"), "has 'ab' for 'face'; allowed: a list of sentences"),
        (lambda c: c["face"].__setitem__(0, 3), "for 'face'; allowed: a list of sentences"),
    ],
)
def test_files_that_do_not_fit(change, message, tmp_path):
    content = {name: ["one.", "two."] for name in NAMES}
    change(content)
    with pytest.raises(ValueError, match=message):
        build("CoPrompt", *write(tmp_path, content))


def test_without_a_file_the_template_is_read_and_said(caplog):
    model = build("CoPrompt", "DATASET.NAME", "DescribableTextures")
    (message,) = caplog.messages
    assert message == f"CoPrompt on DescribableTextures: {model.note}"
    assert model.note == "no file of sentences in gpt_file: the teacher reads 'a photo of a {}, a type of texture.'"
    assert len(model.get_buffer("teacher_text")) == 1


def test_the_distances_may_be_mean_squares():
    """Cosine distances, the adapters and the second view: tests/trainers/test_golden.py."""
    model, images = relearn(build("CoPrompt", "DISTILL", "mse", "W", 3.0)), draw_images(tiny_vit())
    terms, _ = model.loss_terms(images, LABELS)
    image, text = (F.normalize(features, dim=-1) for features in model.features(images))
    f0 = F.normalize(model.image_encoder(images).prompt[:, 0], dim=-1)
    w0 = F.normalize(model.get_buffer("teacher_text")[0], dim=-1)
    expected = [3 * ((x - y) ** 2).mean() for x, y in ((text, w0), (image, f0))]
    torch.testing.assert_close([terms["text"], terms["image"]], expected, atol=1e-5, rtol=1e-4)


def test_the_teacher_sees_the_second_view(tmp_path):
    trainer = train_on_four("CoPrompt", tmp_path, "DATALOADER.K_TRANSFORMS", 2)
    seen = []
    terms = trainer.model.loss_terms
    trainer.model.loss_terms = lambda *batch: seen.append(batch) or terms(*batch)
    trainer.train()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["note"] == trainer.model.note
    assert all(len(batch) == 3 and batch[2].shape == batch[0].shape for batch in seen) and seen

"""docs/five-commands.md, done with the mini CLIP: 100 images become a report and an ONNX file with the same answers."""

import json
import re
import subprocess
import sys

import onnxruntime
import pytest
import torch

from prompting.classifier import Classifier
from prompting.images import read_image
from tests.reference.doc_commands import PROJECT, commands
from tests.reference.photos import write_photos


@pytest.mark.long
def test_five_commands(tmp_path):
    clone, setup, *others = commands(PROJECT / "docs" / "five-commands.md")
    assert clone[:2] == ["git", "clone"] and setup == ["make", "setup"] and len(others) == 3
    photos = write_photos(tmp_path / "photos", classes=5, images=20)
    assert len(photos) == 100
    places = {"~/photos": tmp_path / "photos", "output/photos": tmp_path / "run"}
    programs = {".venv/bin/python": [sys.executable], ".venv/bin/align-clip": [sys.executable, "-m", "prompting"]}
    for program, *words in others:
        words = [str(places.get(word, word)).replace("vit_b16_base2new", "mini") for word in words]
        done = subprocess.run([*programs[program], *words], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    accuracy = json.loads((tmp_path / "run/results.json").read_text())["metrics"]["test"]["accuracy"]
    assert accuracy > 2 * 100 / 5  # twice as good as guessing
    page = (tmp_path / "run/report.html").read_text()
    assert f"{accuracy:.2f}%" in page
    links = re.findall(r'(?:src|href)="([^"#]*)"', page)
    assert links and all(link.startswith("data:") for link in links)  # one file, which loads nothing

    classifier = Classifier.load(tmp_path / "run")
    session = onnxruntime.InferenceSession(str(tmp_path / "run/export/model.onnx"), providers=["CPUExecutionProvider"])
    images = torch.stack([classifier.preprocess(read_image(path)) for path in photos])
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), classifier(photos).logits, rtol=0, atol=1e-4)

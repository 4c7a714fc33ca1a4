"""Zero-shot CLIP against plain open_clip, sentence by sentence."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer

from prompting.clip.templates import ENSEMBLE
from trainers.zsclip import ZeroshotCLIP

NAMES = ["yin_yang", "Boeing 737-800"]


@pytest.mark.parametrize(
    "words, templates",
    [
        ((), ["a photo of a {}."]),
        (("DATASET.NAME", "EuroSAT"), ["a centered satellite photo of {}."]),
        (("DATASET.NAME", "EuroSAT", "DATASET.TEMPLATE", "{} from above"), ["{} from above"]),
        pytest.param(("TRAINER.ZSCLIP.TEMPLATES", "ensemble"), ENSEMBLE, marks=pytest.mark.slow),
    ],
)
def test_plain_clip(words, templates, golden_clip, make_cfg):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    tokenizer, names = SimpleTokenizer(), NAMES if len(templates) == 1 else NAMES[:1]
    with torch.no_grad():
        logits = ZeroshotCLIP.build_clip(make_cfg(*words), names, golden_clip)(images)
        image = F.normalize(golden_clip.encode_image(images), dim=-1)
        for k, name in enumerate(names):
            sentences = [template.format(name.replace("_", " ")) for template in templates]
            text = F.normalize(golden_clip.encode_text(tokenizer(sentences)), dim=-1).mean(0)
            expected = golden_clip.logit_scale.exp() * image @ F.normalize(text, dim=0)
            torch.testing.assert_close(logits[:, k], expected, atol=2e-4, rtol=1e-4)

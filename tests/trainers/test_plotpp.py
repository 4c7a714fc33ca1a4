"""PLOT++: its score by loops, the words it starts from, and its two stages."""

import pytest
import torch

from prompting.clip import word_vectors
from prompting.methods import plotpp
from tests.reference.methods import build, draw_images, relearn, tiny_vit, train_on_four
from tests.reference.ot_naive import cosine, solve_group


@pytest.mark.parametrize("add_global, m, n", [(False, 2, 3), (True, 2, 3), (False, 1, 1)])
def test_score_by_loops(add_global, m, n):
    model = relearn(build("PLOTPP", "TRADE_OFF", add_global, "M", m, "N", n)).eval()
    images, scale = draw_images(tiny_vit()), model.logit_scale.item()
    with torch.no_grad():
        logits = model(images)
        prompts = model.prompt_learner()
        text = model.text_encoder(model.tokens, prompts.text).prompt.double().numpy()
        # One visual prompt at a time, behind the patches of the input layer.
        image = torch.cat([model.image_encoder(images, prompts.visual[i : i + 1]).prompt for i in range(m)], 1)
    image = image.double().numpy()
    pairs = [(b, k) for b in range(2) for k in range(3)]
    similar = {(b, k): cosine(image[b], text[k]) for b, k in pairs}
    plans, _, _ = solve_group([1 - similar[pair] for pair in pairs], lam=0.1, max_iter=100, tol=0.01)
    for (b, k), plan in zip(pairs, plans):
        assert plan.shape == (m, n)
        expected = scale * (plan * similar[b, k]).sum()
        if add_global:
            expected += scale * cosine(image[b].mean(0)[None], text[k].mean(0)[None])[0, 0]
        assert logits[b, k].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("dataset", [*plotpp.STARTS, "Caltech101", "ImageNetSketch"])
def test_words_of_each_data_set(dataset):
    """Every prompt starts from its own words, as many as it has vectors; the class name follows unharmed."""
    model = build("PLOTPP", "DATASET.NAME", dataset, "N", 4)
    starts = plotpp.STARTS.get(dataset, plotpp.ANY_SET)
    length = len(starts[0].split())
    assert model.prompt_learner.text.ctx.shape == (4, length, 64)
    for n, words in enumerate(starts):
        assert torch.equal(model.prompt_learner.text.ctx[n], word_vectors(tiny_vit(), words, length))
    positions = model.tokens.context
    assert not model.tokens.words.gather(2, positions.expand(4, -1, -1)).any()
    with torch.no_grad():  # learned vectors at their start are the words: the prompt reads as the sentence
        learned = model.text_encoder(model.tokens, model.prompt_learner.text.ctx).prompt
        torch.testing.assert_close(learned, model.text_encoder(model.tokens).prompt, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """A first stage's trainer after its one epoch, its folder, and its text prompts before it."""
    folder = tmp_path_factory.mktemp("stages")
    trainer = train_on_four("PLOTPP", folder, "MODEL_UPD", "vision", "TRADE_OFF", True, "OPTIM.WEIGHT_DECAY", 0.1)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    return trainer, folder, before


@pytest.mark.slow
def test_the_first_stage_learns_visual_prompts_only(first_stage):
    trainer, _, before = first_stage
    after = trainer.model.state_dict()
    assert torch.equal(before["prompt_learner.ctx"], after["prompt_learner.ctx"])
    assert not torch.equal(before["prompt_learner.ctx_vision"], after["prompt_learner.ctx_vision"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["out/prompt_learner/model.pth.tar-1", "out/prompt_learner", "out"])
def test_the_second_stage_starts_from_the_first(first_stage, where):
    trainer, folder, _ = first_stage
    first = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    words = ("MODEL_UPD", "joint", "PRETRAIN_DIR", str(folder / where), "OUTPUT_DIR", str(folder / "second"))
    second = train_on_four("PLOTPP", folder, *words)
    start = {name: tensor.clone() for name, tensor in second.model.state_dict().items()}
    assert first.keys() == start.keys() and all(torch.equal(first[name], start[name]) for name in first)
    images = draw_images(tiny_vit())
    second.model.train().training_loss(images, torch.tensor([0, 1]))[0].backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in second.model.parameters() if tensor.requires_grad)


def test_a_missing_first_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        train_on_four("PLOTPP", tmp_path, "PRETRAIN_DIR", str(tmp_path / "nowhere"))

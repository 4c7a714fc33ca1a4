"""PromptSRC: the mean over epochs in closed form, in a run, and in a longer schedule."""

import numpy as np
import pytest
import torch

from prompting.checkpoint import learned_state, read_state_dict
from prompting.methods import promptsrc
from tests.reference.methods import build, draw_images, relearn, tiny_vit, train_on_four


def weights(epochs, mean, std):
    """The normal density of each epoch, divided by their sum, in float64."""
    logs = np.array([-((epoch - mean) ** 2) / (2 * std**2) for epoch in range(1, epochs + 1)])
    return np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()


@pytest.mark.parametrize("epochs, mean, std", [(20, 15, 1), (20, 6, 10), (50, 45, 5), (3, 100, 1), (1, 15, 1)])
def test_the_mean_in_closed_form(epochs, mean, std):
    values = np.random.RandomState(0).standard_normal((epochs, 2, 3))
    running = promptsrc.GaussianMean(mean, std)
    for epoch, value in enumerate(values, 1):
        running.update(epoch, {"ctx": torch.from_numpy(value).half().float()})
    expected = np.tensordot(weights(epochs, mean, std), torch.from_numpy(values).half().double().numpy(), 1)
    np.testing.assert_allclose(running.tensors["ctx"].numpy(), expected, atol=1e-6)
    assert running.tensors["ctx"].dtype == torch.float32


@pytest.mark.parametrize(("reading", "divisor"), [("released", 2 * 3), ("corrected", 2)])
def test_the_divergence_is_divided_by_all_numbers_or_by_the_images(reading, divisor):
    model, images = relearn(build("PromptSRC", "READING", reading)), draw_images(tiny_vit(), 2)
    with torch.no_grad():
        terms, logits = model.loss_terms(images, torch.tensor([0, 2]))
        frozen = torch.nn.functional.normalize(model.clip.encode_image(images).double(), dim=-1)
    target = model.logit_scale.item() * frozen @ model.get_buffer("teacher_text").double().T
    p0, p = target.softmax(1), logits.double().softmax(1)
    total = sum(a * (np.log(a) - np.log(b)) for a, b in zip(p0.flatten().tolist(), p.flatten().tolist()))
    assert logits.shape == (2, 3) and terms["logits"].item() == pytest.approx(total / divisor, rel=1e-3)


def trainer_in(folder, *words):
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    settings = ("OPTIM.MAX_EPOCH", 4, "GPA_MEAN", 3, "GPA_STD", 1, "TRAIN.CHECKPOINT_FREQ", 1)
    return train_on_four("PromptSRC", folder, *settings, *words)


def saved(folder, epoch):
    return read_state_dict(folder / "VLPromptLearner" / f"model.pth.tar-{epoch}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("promptsrc")
    trainer = trainer_in(folder)
    trainer.train()
    return folder / "out", trainer


def plain_tensors(trainer):
    """The learned tensors after the last epoch, which the mean has replaced, by their released names."""
    return {trainer.model.released_names[name]: tensor for name, tensor in trainer.before_mean.items()}


def mean_of(states):
    """The mean over the learned tensors of all epochs."""
    shares = weights(len(states), 3, 1)
    return {name: sum(w * s[name].double() for w, s in zip(shares, states)).float() for name in states[-1]}


def test_the_last_checkpoint_and_the_final_test_are_the_mean(run):
    folder, trainer = run
    plain = plain_tensors(trainer)
    mean = mean_of([*(saved(folder, epoch) for epoch in (1, 2, 3)), plain])
    assert all((mean[name] - plain[name]).abs().max() > 1e-3 for name in mean)
    for state in (saved(folder, 4), learned_state(trainer.model, trainer.model.released_names)):
        torch.testing.assert_close(dict(state), mean, atol=1e-6, rtol=1e-5)
    assert set(trainer.test_results) == {"test"}


@pytest.mark.slow
def test_a_finished_run_goes_on_with_a_longer_schedule(run, tmp_path, caplog):
    """From the prompts before their mean; the new mean is over all epochs, at the rates of the longer schedule."""
    folder, first = run
    words = ("RESUME", str(folder), "OUTPUT_DIR", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="OPTIM.MAX_EPOCH was 4 and is now 3"):
        trainer_in(folder.parent, *words, "OPTIM.MAX_EPOCH", 3).train()
    trainer = trainer_in(folder.parent, *words, "OPTIM.MAX_EPOCH", 6)
    caplog.clear()
    rates = []
    run_epoch = trainer.run_epoch
    trainer.run_epoch = lambda: rates.append(trainer.get_current_lr()) or run_epoch()
    trainer.train()
    assert len([line for line in caplog.messages if line.endswith("goes on with the learning rates of 6 epochs")]) == 1
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * epoch / 6)) / 2 for epoch in (4, 5)])
    states = [*(saved(folder, epoch) for epoch in (1, 2, 3)), plain_tensors(first)]
    states += [saved(tmp_path / "out", 5), plain_tensors(trainer)]
    torch.testing.assert_close(dict(saved(tmp_path / "out", 6)), mean_of(states), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_finished_run_is_only_tested_again(run):
    folder, trainer = run
    again = trainer_in(folder.parent)
    again.train()
    with torch.no_grad():
        images = draw_images(tiny_vit())
        torch.testing.assert_close(again.model.eval()(images), trainer.model.eval()(images))

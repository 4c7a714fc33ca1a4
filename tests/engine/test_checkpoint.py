"""Checkpoint files: what they hold, how they are written, which old ones are read; resuming changes nothing."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from dassl.engine import build_trainer
from dassl.optim import build_lr_scheduler
from dassl.utils import (
    load_checkpoint,
    load_pretrained_weights,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
)
from torch import nn
from torch.utils._pytree import tree_leaves

from prompting.checkpoint import read_state_dict


def trained(cfg, stop_at=None, seed=1):
    """A trainer after training; interrupted before epoch ``stop_at`` if given."""
    set_random_seed(seed)
    trainer = build_trainer(cfg)
    trainer.stop_at = stop_at
    if stop_at is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return trainer


def test_layout(make_cfg, tmp_path):
    trainer = trained(make_cfg("TRAIN.CHECKPOINT_FREQ", 2, "TEST.FINAL_MODEL", "best_val"))
    out = tmp_path / "out"
    files = set(os.listdir(out / "tiny"))
    assert files == {"checkpoint", "model-best.pth.tar", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5"}
    assert (out / "tiny" / "checkpoint").read_text() == "model.pth.tar-5\n"
    last = torch.load(out / "tiny" / "model.pth.tar-5", weights_only=True)  # tensors and plain values, nothing else
    assert set(last) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result", "trainer", "sha256"}
    assert (last["epoch"], last["val_result"], set(last["state_dict"])) == (5, None, {"weight", "bias"})
    best = torch.load(out / "tiny" / "model-best.pth.tar", weights_only=True)
    assert best["val_result"] == trainer.best_result == last["trainer"]["best_result"]


def test_names_lose_module_and_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    state = {"state_dict": {"module.w": torch.ones(1), "submodule.w": torch.ones(1)}, "epoch": 3}
    save_checkpoint(state, str(tmp_path), is_best=True)
    assert list(state["state_dict"]) == ["module.w", "submodule.w"]  # the caller's dictionary is left alone

    def half(path, content):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(state, str(tmp_path), model_name="model-best.pth.tar")
    assert set(os.listdir(tmp_path)) == {"model.pth.tar-3", "model-best.pth.tar", "checkpoint"}
    for name in ("model.pth.tar-3", "model-best.pth.tar"):
        assert list(load_checkpoint(str(tmp_path / name))["state_dict"]) == ["w", "submodule.w"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("warmup", [-1, 3])
def test_two_epochs_and_three_are_five(make_cfg, tmp_path, optimizer, warmup):
    words = ["OPTIM.NAME", optimizer, "OPTIM.WARMUP_EPOCH", warmup, "TRAIN.CHECKPOINT_FREQ", 1]
    trained(make_cfg(*words, "OUTPUT_DIR", str(tmp_path / "whole")))
    split = make_cfg(*words, "OUTPUT_DIR", str(tmp_path / "split"))
    trained(split, stop_at=2)
    assert trained(split, seed=99).start_epoch == 2  # a new process would have another seed
    first, second = (load_checkpoint(str(tmp_path / run / "tiny" / "model.pth.tar-5")) for run in ("whole", "split"))
    for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("by_dassl", [False, True])
def test_the_best_score_and_a_gradient_scaler_survive(make_cfg, by_dassl):
    cfg = make_cfg("TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.MAX_EPOCH", 3)
    first, second = build_trainer(cfg), build_trainer(cfg)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    second.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    first.train()
    assert first.best_result > 0
    for name in ("model-best.pth.tar", "model.pth.tar-3") if by_dassl else ():
        path = os.path.join(cfg.OUTPUT_DIR, "tiny", name)
        held = load_checkpoint(path)
        del held["trainer"]  # Dassl keeps the score with the best model only
        torch.save(held, path)
    second.before_train()
    assert (second.start_epoch, second.best_result) == (3, first.best_result)
    assert by_dassl or second.scaler.state_dict() == first.scaler.state_dict()


def test_refusals_on_resuming(make_cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint to resume from"):
        trained(make_cfg("RESUME", str(tmp_path / "nowhere")))
    cfg = make_cfg("OPTIM.MAX_EPOCH", 1)
    path = trained(cfg).output_dir + "/tiny/model.pth.tar-1"
    good = load_checkpoint(path)
    torch.save({**good, "trainer": {**good["trainer"], "classnames": ["x", "y", "z"]}}, path)
    with pytest.raises(ValueError, match=r"classes x, y, z \(3\), not apple, bell"):
        build_trainer(cfg).before_train()


def test_load_model(make_cfg, capsys):
    cfg = make_cfg()
    first = trained(cfg)
    second = build_trainer(cfg)
    second.load_model("")  # loads nothing
    second.load_model(cfg.OUTPUT_DIR, epoch=5)
    assert torch.equal(second.model.weight, first.model.weight)
    assert "epoch=5, val_result=unknown" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"model-best\.pth\.tar \(found there: model\.pth\.tar-5\)"):
        second.load_model(cfg.OUTPUT_DIR)


def test_pretrained_weights_that_fit(tmp_path, capsys):
    model, path = torch.nn.Linear(3, 2), str(tmp_path / "some.pt")
    torch.save({"state_dict": {"module.weight": torch.ones(2, 3), "bias": torch.ones(5)}}, path)
    load_pretrained_weights(model, path)
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert "discarded due to unmatched keys or size: ['bias']" in capsys.readouterr().out
    torch.save({"other": torch.ones(1)}, path)
    with pytest.warns(UserWarning, match="check the key names manually"):
        load_pretrained_weights(model, path)
    for content in ([1], {"state_dict": None}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"some.pt\" holds no weights: a (list|NoneType) instead"):
            load_pretrained_weights(model, path)


def test_open_specified_layers():
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert (model["body"].training, model["head"].training) == (False, True)
    with pytest.raises(ValueError, match="do you mean head"):
        open_specified_layers(model, "heat")


SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10.0),
    "single_step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
    "multi_step": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, (1, 2)),
}


def parts(cfg):
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=cfg.OPTIM.LR, momentum=0.9)


def legacy_file(folder, cfg, epochs):
    """A checkpoint as Dassl writes it: the warm-up scheduler holds the next scheduler, and that the optimizer."""
    model, optimizer = parts(cfg)
    successor = SCHEDULES[cfg.OPTIM.LR_SCHEDULER](optimizer)
    for epoch in range(epochs):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        if epoch >= cfg.OPTIM.WARMUP_EPOCH:
            successor.step()
    done = min(epochs, cfg.OPTIM.WARMUP_EPOCH)
    scheduler = {"successor": successor, "base_lrs": [cfg.OPTIM.LR], "last_epoch": done, "_step_count": epochs + 1}
    state = {"state_dict": model.state_dict(), "epoch": epochs, "optimizer": optimizer.state_dict()}
    path = folder / f"model.pth.tar-{epochs}"
    torch.save({**state, "scheduler": scheduler, "val_result": None}, path)
    (folder / "checkpoint").write_text(path.name + "\n")
    return path


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("epochs", [1, 4])
def test_checkpoints_of_dassl_are_read_and_the_rate_goes_on(tmp_path, make_cfg, name, epochs):
    words = ["OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", 10, "OPTIM.WARMUP_EPOCH", 2, "OPTIM.WARMUP_TYPE", "constant"]
    cfg = make_cfg(*words, "OPTIM.LR_SCHEDULER", name, "OPTIM.STEPSIZE", (1, 2))
    path = legacy_file(tmp_path, cfg, epochs)
    held = load_checkpoint(str(path))
    assert not hasattr(held["scheduler"]["successor"], "step")  # an object without methods
    with pytest.raises(pickle.UnpicklingError):  # the classes in the file are allowed for that one reading only
        torch.load(path, weights_only=True)

    (model, optimizer), (_, whole_optimizer) = parts(cfg), parts(cfg)
    scheduler, whole = (build_lr_scheduler(o, cfg.OPTIM) for o in (optimizer, whole_optimizer))
    assert resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler) == epochs
    assert torch.equal(model.weight, held["state_dict"]["weight"])
    for _ in range(epochs):
        whole.step()
    for _ in range(5):
        assert optimizer.param_groups[0]["lr"] == whole_optimizer.param_groups[0]["lr"]
        scheduler.step()
        whole.step()


class Unknown:
    pass


def test_missing_and_damaged_files_and_those_with_other_objects_are_refused(tmp_path):
    """Those that bring code: tests/test_hostile_files.py."""
    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {}, "scheduler": Unknown()}, path)
    with pytest.raises(ValueError, match="Unable to load checkpoint.*Unknown") as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    for content in (b"", b"abc" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Unable to load checkpoint"):
            load_checkpoint(str(path))
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        load_checkpoint(str(tmp_path / "nothing.pt"))
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)


def flips(path, number, seed=0):
    """Contents of a file with one random bit changed each."""
    content, draw = path.read_bytes(), random.Random(seed)
    for _ in range(number):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)


@pytest.mark.parametrize("form", ["ours", "torch's"])
def test_no_flipped_bit_changes_a_tensor_in_silence(tmp_path, form):
    path = tmp_path / "model.pth.tar-3"
    state = {"state_dict": {"w": torch.randn(64), "n": torch.tensor(3)}, "epoch": 3, "optimizer": {"lr": [0.1, None]}}
    if form == "ours":
        save_checkpoint(state, str(tmp_path))
    else:
        torch.save(state, path)
    expected, refused = load_checkpoint(str(path)), 0
    for content in flips(path, 100):
        path.write_bytes(content)
        for read in (lambda: load_checkpoint(str(path))["state_dict"], lambda: read_state_dict(path)):
            try:
                found = read()
            except ValueError as error:
                assert "weights_only" not in str(error) and "\n" not in str(error)
                refused += 1
            else:
                assert all(torch.equal(found[name], value) for name, value in expected["state_dict"].items())
    assert refused > 40


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
def test_weights_of_another_kind_are_of_another_model(tmp_path, kind):
    save_checkpoint({"state_dict": {"weight": torch.ones(1, 2, dtype=kind)}, "epoch": 3}, str(tmp_path))
    model = torch.nn.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match=f"model.pth.tar-3. is of another model: weight is of {kind}"):
        resume_from_checkpoint(str(tmp_path), model)
    before = model.weight.detach().clone()
    with pytest.warns(UserWarning, match="Cannot load"):
        load_pretrained_weights(model, str(tmp_path / "model.pth.tar-3"))
    assert torch.equal(model.weight, before)


def test_content_that_was_edited_is_refused(tmp_path):
    """Checksums of the file do not see it: the hashes in it do, also of a module's extra state."""
    extra = {"labels": [0, 1], "classnames": ["a", "b"], "beta": 1.5}
    learned = {"_extra_state": extra, "w": torch.ones(2)}
    save_checkpoint({"state_dict": learned, "epoch": 3, "optimizer": {"lr": 0.1}}, str(tmp_path))
    path = tmp_path / "model.pth.tar-3"
    assert read_state_dict(path)["_extra_state"] == load_checkpoint(str(path))["state_dict"]["_extra_state"] == extra
    held = torch.load(path, weights_only=True)
    torch.save({**held, "optimizer": {"lr": 0.2}}, path)
    with pytest.raises(ValueError, match="model.pth.tar-3.*SHA-256 of 'optimizer'"):
        load_checkpoint(str(path))
    for changed in ({"w": torch.zeros(2)}, {"_extra_state": {**extra, "beta": 2.5}}):
        torch.save({**held, "state_dict": {**learned, **changed}}, path)
        for read in (load_checkpoint, read_state_dict):
            with pytest.raises(ValueError, match="model.pth.tar-3.*SHA-256"):
                read(str(path))


def test_a_damaged_last_checkpoint_names_the_newest_whole_one(tmp_path):
    for epoch in (1, 2, 3):
        save_checkpoint({"state_dict": nn.Linear(1, 1).state_dict(), "epoch": epoch}, str(tmp_path))
        os.utime(tmp_path / f"model.pth.tar-{epoch}", (epoch, epoch))
    for epoch, other in ((3, "whole checkpoint there is model.pth.tar-2"), (2, "is model.pth.tar-1"), (1, "is whole")):
        path = tmp_path / f"model.pth.tar-{epoch}"
        path.write_bytes(path.read_bytes()[:-200])
        (tmp_path / "checkpoint").write_text(f"{path.name}\n")
        with pytest.raises(ValueError, match=f'"{path}": .*{other}'):
            resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint in that folder is whole"):
        resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1))


def test_the_last_epoch_is_kept_until_the_next_checkpoint(make_cfg, tmp_path):
    folder = tmp_path / "out" / "tiny"
    trained(make_cfg("TRAIN.CHECKPOINT_FREQ", 2), stop_at=3)  # after three whole epochs
    assert set(os.listdir(folder)) == {"checkpoint", "model.pth.tar-2", "model-last.pth.tar"}
    assert load_checkpoint(str(folder / "model-last.pth.tar"))["epoch"] == 3
    trained(make_cfg("TRAIN.CHECKPOINT_FREQ", 2), seed=9)
    assert set(os.listdir(folder)) == {"checkpoint", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5"}

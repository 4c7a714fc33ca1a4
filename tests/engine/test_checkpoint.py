"""Checkpoint files: what they hold, how they are written, which old ones are read; resuming changes nothing."""

import os
import pickle

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


# ---- layout


def test_layout(make_cfg, tmp_path):
    trainer = trained(make_cfg("TRAIN.CHECKPOINT_FREQ", 2, "TEST.FINAL_MODEL", "best_val"))
    out = tmp_path / "out"
    files = set(os.listdir(out / "tiny"))
    assert files == {"checkpoint", "model-best.pth.tar", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5"}
    assert (out / "tiny" / "checkpoint").read_text() == "model.pth.tar-5\n"
    assert os.listdir(out / "tensorboard")
    last = torch.load(out / "tiny" / "model.pth.tar-5", weights_only=True)  # tensors and plain values, nothing else
    assert set(last) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result", "trainer"}
    assert (last["epoch"], last["val_result"]) == (5, None)
    assert set(last["state_dict"]) == {"weight", "bias"}
    best = torch.load(out / "tiny" / "model-best.pth.tar", weights_only=True)
    assert best["val_result"] == trainer.best_result == last["trainer"]["best_result"]


def test_names_lose_module_and_the_best_is_copied(tmp_path):
    state = {"state_dict": {"module.w": torch.ones(1), "submodule.w": torch.ones(1)}, "epoch": 3}
    save_checkpoint(state, str(tmp_path), is_best=True)
    assert list(state["state_dict"]) == ["module.w", "submodule.w"]  # the caller's dictionary is left alone
    for name in ("model.pth.tar-3", "model-best.pth.tar"):
        assert list(load_checkpoint(str(tmp_path / name))["state_dict"]) == ["w", "submodule.w"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    state = {"state_dict": {"w": torch.ones(1)}, "epoch": 1}
    save_checkpoint(state, str(tmp_path), model_name="model-best.pth.tar")

    def half(obj, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(state, str(tmp_path), model_name="model-best.pth.tar")
    assert load_checkpoint(str(tmp_path / "model-best.pth.tar"))["epoch"] == 1
    assert set(os.listdir(tmp_path)) == {"model-best.pth.tar", "checkpoint"}


# ---- resuming


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("warmup", [-1, 3])
def test_two_epochs_and_three_are_five(make_cfg, tmp_path, optimizer, warmup):
    words = ["OPTIM.NAME", optimizer, "OPTIM.WARMUP_EPOCH", warmup, "TRAIN.CHECKPOINT_FREQ", 1]
    whole = trained(make_cfg(*words, "OUTPUT_DIR", str(tmp_path / "whole")))
    split = make_cfg(*words, "OUTPUT_DIR", str(tmp_path / "split"))
    trained(split, stop_at=2)
    resumed = trained(split, seed=99)  # a new process would have another seed
    assert resumed.start_epoch == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    first, second = (load_checkpoint(str(tmp_path / run / "tiny" / "model.pth.tar-5")) for run in ("whole", "split"))
    assert first["scheduler"] == second["scheduler"]
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]
    for key, value in first["optimizer"]["state"][0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second["optimizer"]["state"][0][key])), key


@pytest.mark.parametrize("by_dassl", [False, True])
def test_the_best_score_survives(make_cfg, by_dassl):
    cfg = make_cfg("TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1)
    first = trained(cfg, stop_at=3)
    assert first.best_result > 0
    for name in ("model-best.pth.tar", "model.pth.tar-3") if by_dassl else ():
        path = os.path.join(cfg.OUTPUT_DIR, "tiny", name)
        held = load_checkpoint(path)
        del held["trainer"]  # Dassl keeps the score with the best model only
        torch.save(held, path)
    second = build_trainer(cfg)
    second.before_train()
    assert (second.start_epoch, second.best_result) == (3, first.best_result)


def test_a_gradient_scaler_survives(make_cfg):
    cfg = make_cfg("OPTIM.MAX_EPOCH", 1)
    first = build_trainer(cfg)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    first.train()
    second = build_trainer(cfg)
    second.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    second.before_train()
    assert second.scaler.state_dict() == first.scaler.state_dict()


def test_refusals_on_resuming(make_cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint to resume from"):
        trained(make_cfg("RESUME", str(tmp_path / "nowhere")))
    cfg = make_cfg("OPTIM.MAX_EPOCH", 1)
    path = trained(cfg).output_dir + "/tiny/model.pth.tar-1"
    good = load_checkpoint(path)
    torch.save({**good, "trainer": {**good["trainer"], "classnames": ["x", "y", "z"]}}, path)
    with pytest.raises(ValueError, match=r"classes x, y, z \(3\), not apple, bell, cloud \(3\)"):
        build_trainer(cfg).before_train()
    torch.save({**good, "state_dict": {"weight": torch.zeros(5, 192), "bias": torch.zeros(5)}}, path)
    with pytest.raises(ValueError, match="of another model.*size mismatch for weight"):
        build_trainer(cfg).before_train()


# ---- loading for evaluation


def test_load_model(make_cfg, capsys):
    cfg = make_cfg()
    first = trained(cfg)
    second = build_trainer(cfg)
    second.load_model("")
    assert "load_model() is skipped" in capsys.readouterr().out
    second.load_model(cfg.OUTPUT_DIR, epoch=5)
    assert torch.equal(second.model.weight, first.model.weight)
    assert "epoch=5, val_result=unknown" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"model-best\.pth\.tar \(found there: model\.pth\.tar-5\)"):
        second.load_model(cfg.OUTPUT_DIR)


def test_pretrained_weights_that_fit(tmp_path, capsys):
    model = torch.nn.Linear(3, 2)
    save_checkpoint(
        {"state_dict": {"module.weight": torch.ones(2, 3), "bias": torch.ones(5)}, "epoch": 0}, str(tmp_path)
    )
    load_pretrained_weights(model, str(tmp_path / "model.pth.tar-0"))
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert "discarded due to unmatched keys or size: ['bias']" in capsys.readouterr().out
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.warns(UserWarning, match="check the key names manually"):
        load_pretrained_weights(model, str(tmp_path / "other.pt"))


def test_open_specified_layers():
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert (model["body"].training, model["head"].training) == (False, True)
    with pytest.raises(ValueError, match="do you mean head"):
        open_specified_layers(model, "heat")


# ---- old files


def legacy_file(folder, cfg, epochs, schedule):
    """A checkpoint as Dassl writes it: the warm-up scheduler holds the next scheduler, and that the optimizer."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.OPTIM.LR, momentum=0.9)
    successor = schedule(optimizer)
    for epoch in range(epochs):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        if epoch >= cfg.OPTIM.WARMUP_EPOCH:
            successor.step()
    scheduler = {
        "successor": successor,
        "warmup_epoch": cfg.OPTIM.WARMUP_EPOCH,
        "cons_lr": 1e-5,
        "base_lrs": [cfg.OPTIM.LR],
        "last_epoch": min(epochs, cfg.OPTIM.WARMUP_EPOCH),
        "_step_count": epochs + 1,
        "_last_lr": [optimizer.param_groups[0]["lr"]],
    }
    state = {"state_dict": model.state_dict(), "epoch": epochs, "optimizer": optimizer.state_dict()}
    path = folder / f"model.pth.tar-{epochs}"
    torch.save({**state, "scheduler": scheduler, "val_result": None}, path)
    (folder / "checkpoint").write_text(path.name + "\n")
    return path


SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10.0),
    "single_step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
    "multi_step": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, (1, 2)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("epochs", [1, 4])
def test_checkpoints_of_dassl_are_read_and_the_rate_goes_on(tmp_path, make_cfg, name, epochs):
    words = ["OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", 10, "OPTIM.WARMUP_EPOCH", 2, "OPTIM.WARMUP_TYPE", "constant"]
    cfg = make_cfg(*words, "OPTIM.LR_SCHEDULER", name, "OPTIM.STEPSIZE", (1, 2))
    path = legacy_file(tmp_path, cfg, epochs, SCHEDULES[name])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    held = load_checkpoint(str(path))["scheduler"]["successor"]
    assert not hasattr(held, "step")  # an object without methods

    def fresh():
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=cfg.OPTIM.LR, momentum=0.9)
        return model, optimizer, build_lr_scheduler(optimizer, cfg.OPTIM)

    model, optimizer, scheduler = fresh()
    assert resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler) == epochs
    assert torch.equal(model.weight, load_checkpoint(str(path))["state_dict"]["weight"])
    _, straight_optimizer, straight = fresh()
    for _ in range(epochs):
        straight.step()
    for _ in range(5):
        assert optimizer.param_groups[0]["lr"] == straight_optimizer.param_groups[0]["lr"]
        scheduler.step()
        straight.step()


class Malicious:
    def __reduce__(self):
        return os.mkdir, (self.path,)


class Unknown:
    pass


def test_files_that_bring_code_are_refused(tmp_path):
    bomb = Malicious()
    bomb.path = str(tmp_path / "exploded")
    for thing, name in ((bomb, "mkdir"), (Unknown(), "Unknown")):
        path = str(tmp_path / "bad.pt")
        torch.save({"state_dict": {}, "scheduler": thing}, path)
        with pytest.raises(ValueError, match=f"Unable to load checkpoint.*{name}") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_the_allow_list_does_not_stay_open(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"epoch": 1}, tmp_path / "some.pt")
    load_checkpoint(str(tmp_path / "some.pt"))
    assert set(torch.serialization.get_safe_globals()) == before


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        load_checkpoint(str(tmp_path / "nothing.pt"))
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)
    for content in (b"", b"abc" * 100):
        (tmp_path / "junk.pt").write_bytes(content)
        with pytest.raises(ValueError, match="Unable to load checkpoint"):
            load_checkpoint(str(tmp_path / "junk.pt"))

"""The order of hooks, the log lines, and the steps that trainers are made of."""

import json
import re

import pytest
import torch
from dassl.engine import SimpleNet, TrainerBase, TrainerX, TrainerXU, build_trainer
from dassl.modeling import BACKBONE_REGISTRY, HEAD_REGISTRY, Backbone
from dassl.utils import AverageMeter, MetricMeter

EPOCH_LINE = re.compile(
    r"epoch \[\d+/\d+\] batch \[\d+/\d+\] time \d+\.\d{3} \(\d+\.\d{3}\) data \d+\.\d{3} \(\d+\.\d{3}\) "
    r"loss \d+\.\d{4} \(\d+\.\d{4}\) lr \d\.\d{4}e[+-]\d\d eta \d+:\d\d:\d\d"
)


def test_log_lines_and_scalars(make_cfg, capsys, tmp_path, monkeypatch):
    trainer = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 2))
    written = []
    monkeypatch.setattr(trainer, "write_scalar", lambda tag, value, step=None: written.append((tag, step)))
    trainer.train()
    for tag in ("train/loss", "train/lr"):
        assert [step for name, step in written if name == tag] == [0, 1, 2, 3, 4, 5]
    assert written[-3:] == [("test/accuracy", 1), ("test/error_rate", 1), ("test/macro_f1", 1)]
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 6 and all(EPOCH_LINE.fullmatch(line) for line in epochs)
    assert lines[0] == "Loading trainer: TinyTrainer"
    end = lines[lines.index("Finish training") :]
    assert end[1:4] == ["Finished training", "Deploy the last-epoch model", "Evaluate on the *test* set"]
    assert f"* accuracy: {trainer.test_results['test']['accuracy']:.1f}%" in end
    assert re.fullmatch(r"Elapsed: \d:\d\d:\d\d", end[-1])


def test_order_of_hooks_and_the_best_model_has_a_strictly_better_score(make_cfg, monkeypatch):
    trainer = build_trainer(make_cfg("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3))
    scores, events = iter([50.0, 50.0, 70.0]), []
    for name in ("before_train", "before_epoch", "run_epoch", "after_train"):
        monkeypatch.setattr(trainer, name, lambda name=name: events.append(name))
    monkeypatch.setattr(trainer, "test", lambda split: next(scores))
    monkeypatch.setattr(
        trainer, "save_model", lambda epoch, folder, **kw: events.append(kw.get("val_result") or kw["model_name"])
    )
    trainer.train()
    epoch, last = ["before_epoch", "run_epoch"], "model-last.pth.tar"
    assert events == ["before_train", *epoch, 50.0, last, *epoch, last, *epoch, 70.0, "", "after_train"]


def test_splits_and_the_output_file(make_cfg, tmp_path):
    trainer = build_trainer(make_cfg())
    assert trainer.test("val") == trainer.test_results["val"]["accuracy"]
    trainer.val_loader = None
    accuracy = trainer.output_test("val")
    assert list(trainer.test_results) == ["val", "test"] and not trainer.model.training
    rows = json.loads((tmp_path / "out" / "output.json").read_text())
    right = sum(max(range(3), key=row["predict"].__getitem__) == row["gt"] for row in rows.values())
    assert len(rows) == 6 and accuracy == pytest.approx(100 * right / 6)
    with pytest.raises(ValueError, match=r"\['val', 'test'\], but got \[train\]"):
        trainer.test("train")


@pytest.mark.parametrize("checked_by_plugin", [True, False])
def test_nan_names_the_images(make_cfg, monkeypatch, checked_by_plugin):
    trainer = build_trainer(make_cfg())

    def forward_backward(batch):
        loss = trainer.model(batch["img"].flatten(1)).sum() * float("nan")
        if checked_by_plugin:
            trainer.model_backward_and_update(loss)
        return {"loss": loss}

    monkeypatch.setattr(trainer, "forward_backward", forward_backward)
    with pytest.raises(FloatingPointError, match=r"Loss is infinite or NaN!.*epoch 1, batch 1.*\.png.* and 2 more"):
        trainer.train()


def test_models_are_registered_by_name():
    trainer, first = TrainerBase(), torch.nn.Linear(1, 1)
    trainer.register_model("b", first)
    trainer.register_model("a", torch.nn.Linear(1, 1))
    trainer.set_model_mode("eval", "b")
    assert trainer.get_model_names() == ["b", "a"] and not first.training
    trainer.update_lr()  # without optimizer or schedule there is nothing to do
    for call, text in (
        (lambda: trainer.register_model("a", first), "duplicate"),
        (lambda: trainer.get_model_names(["c"]), r"\['b', 'a'\]"),
        (lambda: trainer.set_model_mode("trian"), r"do you mean \[train\]"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(AttributeError, match="super"):
        TrainerBase.__new__(TrainerBase).register_model("a")


def test_prograd_projects_conflicting_gradients():
    trainer = TrainerBase()
    model = torch.nn.ParameterList([torch.zeros(2), torch.zeros(2), torch.zeros(1)])
    trainer.register_model("m", model, torch.optim.SGD(model.parameters(), lr=1.0))
    a = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([3.0])]
    b = [torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 1.0])]

    def loss(gradients):
        return sum((p * g).sum() for p, g in zip(model, gradients))

    trainer.prograd_backward_and_update(loss(a), loss(b), lambda_=0.5)  # b has none for the third tensor
    nan = float("nan")
    for losses in ((loss(a), loss(b) * nan), (loss(a) * nan, loss(b))):  # nothing is changed
        with pytest.raises(FloatingPointError, match=r"Loss is infinite or NaN! \(loss_[ab] is nan\)"):
            trainer.prograd_backward_and_update(*losses)
    # first tensor: <a, b> = -2, so half of its component (1, 0) along b is removed; the others do not conflict
    for value, wanted in zip(model, ([-0.5, -2.0], [-1.0, 0.0], [-3.0])):
        torch.testing.assert_close(value.detach(), torch.tensor(wanted))


@pytest.mark.parametrize(("count", "batches"), [("train_x", 5), ("train_u", 2), ("smaller_one", 2)])
def test_unlabelled_batches_restart_when_they_run_out(make_cfg, count, batches):
    seen = []

    class Pairs(TrainerXU):
        def build_model(self):
            self.register_model("m", torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], lr=1.0))

        def build_data_loader(self):
            super().build_data_loader()
            self.train_loader_x, self.train_loader_u = [1, 2, 3, 4, 5], ["a", "b"]

        def forward_backward(self, batch_x, batch_u):
            seen.append((batch_x, batch_u))
            return {}

    trainer = Pairs(make_cfg("TRAIN.COUNT_ITER", count, "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True))
    trainer.train()
    assert seen == [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")][:batches]
    trainer.train_loader_u = None
    with pytest.raises(ValueError, match="Pairs needs unlabelled images, but TinySet has none"):
        trainer.run_epoch()


def test_simple_net_and_default_model(make_cfg):
    @BACKBONE_REGISTRY.register(force=True)
    class Pool(Backbone):
        _out_features = 3

        def __init__(self, pretrained):
            super().__init__()

        def forward(self, x):
            return x.mean((2, 3))

    @HEAD_REGISTRY.register(force=True)
    def wide(in_features, hidden_layers, activation, bn, dropout):
        return torch.nn.Linear(in_features, hidden_layers[-1])

    cfg = make_cfg("MODEL.BACKBONE.NAME", "Pool", "MODEL.HEAD.NAME", "wide", "MODEL.HEAD.HIDDEN_LAYERS", (7,))
    net = SimpleNet(cfg, cfg.MODEL, 4)
    scores, features = net(torch.rand(2, 3, 8, 8), return_feature=True)
    assert (scores.shape, features.shape, net.fdim) == ((2, 4), (2, 7), 7)
    assert SimpleNet(cfg, cfg.MODEL, 0)(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    trainer = type("Plain", (TrainerX,), {})(cfg)
    assert trainer.get_model_names() == ["model"] and isinstance(trainer.optim, torch.optim.Adam)
    assert trainer.test() == trainer.test_results["test"]["accuracy"]


def test_meters():
    plain, smooth, meter = AverageMeter(), AverageMeter(ema=True), MetricMeter()
    for value, n in ((1.0, 1), (torch.tensor(4.0), 2)):
        plain.update(value, n)
        smooth.update(value)
    assert (plain.avg, smooth.avg) == pytest.approx((3.0, 0.1 * 0.9 + 0.4))
    for values in ({"loss": 1.0, "acc": torch.tensor(50.0)}, None, {"loss": 2.0}):
        meter.update(values)
    assert str(meter) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"


def test_a_training_outlives_tensorboard(make_cfg, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for name in ("add_scalar", "__init__", "close"):
        with monkeypatch.context() as patch, caplog.at_level("WARNING"):
            patch.setattr(SummaryWriter, name, full)
            trainer = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 1, "OUTPUT_DIR", f"{make_cfg().OUTPUT_DIR}-{name}"))
            trainer.train()
        assert "accuracy" in trainer.test_results["test"]
        assert caplog.text.count("TensorBoard's") == 1 and "No space left" in caplog.text
        caplog.clear()

"""Registries and their errors."""

import pytest
from dassl.data.datasets import build_dataset
from dassl.engine import build_trainer
from dassl.evaluation import build_evaluator
from dassl.modeling import build_backbone
from dassl.utils import Registry, check_availability


def test_registering_and_finding():
    registry = Registry("THING")

    @registry.register()
    def first():
        pass

    registry.register(dict)
    assert registry.registered_names() == ["first", "dict"] and registry.get("first") is first
    registry.register(type("dict", (), {}), force=True)
    assert registry.get("dict") is not dict
    with pytest.raises(KeyError, match='^An object named "dict" was already registered in "THING" registry$'):
        registry.register(dict)
    with pytest.raises(KeyError, match=r'^Object name "dick" does not .* "THING" registry \(do you mean \[dict\]\?\)$'):
        registry.get("dick")


def test_unknown_names(make_cfg):
    with pytest.raises(
        ValueError, match=r"belong to \['MaPLe', 'CoOp'\], but got \[CoOpp\] \(do you mean \[CoOp\]\?\)"
    ):
        check_availability("CoOpp", ["MaPLe", "CoOp"])
    builders = {"TRAINER.NAME": build_trainer, "DATASET.NAME": build_dataset, "TEST.EVALUATOR": build_evaluator}
    for key, build in builders.items():
        with pytest.raises(ValueError, match="do you mean"):
            build(make_cfg(key, "Tyni"))
    with pytest.raises(ValueError, match=r"belong to \[\]"):
        build_backbone("resnet")

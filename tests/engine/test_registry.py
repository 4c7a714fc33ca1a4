"""Registries and their errors."""

import pytest
from dassl.data.datasets import build_dataset
from dassl.engine import build_trainer
from dassl.evaluation import build_evaluator
from dassl.modeling import build_backbone
from dassl.utils import Registry, check_availability


def test_register_as_decorator_and_as_call():
    registry = Registry("THING")

    @registry.register()
    class First:
        pass

    def second():
        pass

    registry.register(second)
    assert registry.registered_names() == ["First", "second"]
    assert registry.get("First") is First


def test_duplicates_need_force():
    registry = Registry("THING")
    registry.register(dict)
    with pytest.raises(KeyError) as caught:
        registry.register(dict)
    assert str(caught.value) == 'An object named "dict" was already registered in "THING" registry'
    registry.register(type("dict", (), {}), force=True)
    assert registry.get("dict") is not dict


def test_unknown_names():
    registry = Registry("THING")
    registry.register(dict)
    with pytest.raises(KeyError) as caught:
        registry.get("dick")
    assert str(caught.value) == 'Object name "dick" does not exist in "THING" registry (do you mean [dict]?)'
    with pytest.raises(ValueError) as refused:
        check_availability("CoOpp", ["MaPLe", "CoOp"])
    assert str(refused.value) == (
        "The requested one is expected to belong to ['MaPLe', 'CoOp'], but got [CoOpp] (do you mean [CoOp]?)"
    )


def test_builders_name_the_nearest(make_cfg):
    for build, key in (
        (build_trainer, "TRAINER.NAME"),
        (build_dataset, "DATASET.NAME"),
        (build_evaluator, "TEST.EVALUATOR"),
    ):
        with pytest.raises(ValueError, match="do you mean"):
            build(make_cfg(key, "Tyni"))
    with pytest.raises(ValueError, match=r"belong to \[\]"):
        build_backbone("resnet")

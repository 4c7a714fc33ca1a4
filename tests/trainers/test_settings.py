"""Config keys that several methods share, and keys outside a method's node."""

import itertools
import re

import pytest
from dassl.config import get_cfg_default
from yacs.config import CfgNode

import train
from tests.reference.methods import METHODS, config, train_on_four
from trainers.record.runs import method_config
from trainers.settings import add_nodes

SHARED = [METHODS[name] for name in ("CoOp", "KgCoOp", "ProGrad")]


@pytest.mark.parametrize(
    "order", list(itertools.permutations(SHARED)), ids=lambda order: "-".join(m.__name__ for m in order)
)
def test_every_method_reads_its_own_default(order):
    cfg, other = get_cfg_default(), get_cfg_default()
    add_nodes(cfg, *order)
    add_nodes(other, *order)
    assert [method.settings(cfg)["CTX_INIT"] for method in SHARED] == ["", False, False]
    assert [method.settings(cfg)["N_CTX"] for method in SHARED] == [16, 16, 16]
    cfg.merge_from_list(["TRAINER.COOP.CTX_INIT", "True"])
    assert SHARED[1].options(cfg).ctx_init is True
    with pytest.raises(ValueError, match=r"^TRAINER.COOP.CTX_INIT is True; allowed for CoOp: a str, by default ''$"):
        SHARED[0].options(cfg)
    other.merge_from_list(["TRAINER.COOP.CTX_INIT", "a photo of a"])
    assert SHARED[0].options(other).ctx_init == "a photo of a"
    with pytest.raises(ValueError, match="TRAINER.COOP.CTX_INIT is 'a photo of a'; allowed for ProGrad: a bool"):
        SHARED[2].options(other)


@pytest.mark.parametrize("name, start", [("CoOp", ""), ("KgCoOp", False)])
def test_the_command_line_shows_the_defaults_of_its_method(name, start):
    cfg = train.setup_cfg(train.parse_args(["--trainer", name]))
    assert (cfg.TRAINER.COOP.CTX_INIT, cfg.TRAINER.COOP.N_CTX) == (start, 16)
    assert train.setup_cfg(train.parse_args([])).TRAINER.COOP.CTX_INIT is None


@pytest.mark.parametrize("name", METHODS)
def test_numbers_that_mean_nothing_are_refused_with_their_key(name):
    """Every number of every method, before data or CLIP are loaded."""
    method = METHODS[name]
    for key, default in method.defaults().items():
        if isinstance(default, bool) or not isinstance(default, (int, float)):
            continue
        for value in (-1, *((float("nan"), float("inf")) if isinstance(default, float) else ())):
            with pytest.raises((ValueError, TypeError), match=re.escape(key)):
                method.options(config(name, method.full_key(key), type(default)(value)))


def test_a_run_records_the_keys_of_its_method():
    recorded = method_config(config("CoOp"), "CoOp")
    assert set(recorded["TRAINER"]) == {"NAME", "COOP"} and "LOSS" not in recorded
    assert set(recorded["TRAINER"]["COOP"]) == set(METHODS["CoOp"].defaults())
    assert method_config(config("ProGrad"), "ProGrad")["LOSS"]["LAMBDA"] == 1.0
    recorded = method_config(config("CoPrompt", "W", 3.0), "CoPrompt")["TRAINER"]
    assert recorded["W"] == 3.0 and set(recorded) == {"NAME", "CoPrompt", "W", "DISTILL"}


def test_a_run_of_a_shared_node(tmp_path):
    """The trainer's own cfg need not be filled in: Dassl's train.py knows nothing of it."""
    trainer = train_on_four("KgCoOp", tmp_path, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    assert isinstance(trainer.cfg, CfgNode) and trainer.test_results

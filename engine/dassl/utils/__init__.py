"""Helpers that plugins import from here."""
# ruff: noqa: F401

from .checkpoint import load_checkpoint, load_pretrained_weights, resume_from_checkpoint, save_checkpoint
from .logger import RunLog, progress, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import NamedKeyError, Registry, check_availability, get_most_similar_str_to_a_from_b
from .tools import (
    by_product,
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    mkdir_if_missing,
    open_image,
    orientation,
    read_image,
    read_json,
    remove_abandoned,
    set_random_seed,
    tolist_if_not,
    write_atomically,
    write_json,
)
from .torchtools import count_num_param, init_network_weights, open_all_layers, open_specified_layers

"""A config with the keys of all methods and data sets."""

from dassl.config import get_cfg_default

import datasets
import trainers


def default_cfg(*words):
    """Return the default config, with KEY, VALUE words merged into it."""
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    datasets.extend_cfg(cfg)
    cfg.merge_from_list(list(words))
    return cfg

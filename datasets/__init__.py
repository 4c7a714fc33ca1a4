"""Data sets under CoOp's registry names. Importing this package registers all of them."""

import sys

if sys.argv[0] == "-m":  # Python looks for the module that it will run
    from dassl.starting import end_on_ctrl_c

    end_on_ctrl_c(package=__name__)

from .catalog import CATALOG
from .config import extend_cfg
from .custom import CUSTOM_DATASETS
from .mini.register import MINI_DATASETS
from .registry import Description, register
from .splits import Split

__all__ = ["CATALOG", "CUSTOM_DATASETS", "MINI_DATASETS", "Description", "Split", "extend_cfg", "register"]

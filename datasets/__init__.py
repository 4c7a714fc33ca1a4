"""Data sets under CoOp's registry names. Importing this package registers all of them.

| file | contents |
|---|---|
| catalog.py | one description for each of CoOp's fifteen data sets |
| readers.py | one reader for each annotation format |
| custom.py, csv_rows.py | Folder, Csv and SplitJson: your images, without Python |
| survey.py | a look at the images of custom data before they are used |
| registry.py | from a description to a registered class; few shots and classes selected by the config |
| splits.py | train, val and test as rows: split files, checks, ratios, base and new classes |
| fewshot.py | few-shot draws, CoOp's pickles among them |
| folders.py, files.py | listing image folders; text, JSON and cache files |
| config.py | the config keys under ``DATASET`` and their defaults |
| check.py, __main__.py | ``python -m datasets check, layout, stats`` |
| mini/ | the built-in suite: icons and emoji on made-up pages |
"""

import sys

if sys.argv[0] == "-m":  # Python looks for the module that it will run
    from dassl.starting import end_on_ctrl_c

    end_on_ctrl_c()

from .catalog import CATALOG
from .config import extend_cfg
from .custom import CUSTOM_DATASETS
from .mini.register import MINI_DATASETS
from .registry import Description, register
from .splits import Split

__all__ = ["CATALOG", "CUSTOM_DATASETS", "MINI_DATASETS", "Description", "Split", "extend_cfg", "register"]

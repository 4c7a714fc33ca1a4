"""One file per method. ``METHODS`` maps registry names to model classes.

Importing this package imports all of its modules, so that ``METHODS`` has every ``PromptedCLIP`` with a ``name``.
"""

import pkgutil
from importlib import import_module

from prompting.methods.base import METHODS, CosineCLIP, PromptedCLIP

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "CosineCLIP", "PromptedCLIP"]

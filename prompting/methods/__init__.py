"""The methods: one file each, which reads like its paper.

``METHODS`` maps a method's name to its model. A file in this folder that defines a named ``PromptedCLIP`` is a method;
nothing else has to list it.
"""

import pkgutil
from importlib import import_module

from prompting.methods.base import METHODS, CosineCLIP, PromptedCLIP

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "CosineCLIP", "PromptedCLIP"]

"""Prompt tuning for CLIP, without Dassl or data sets: loaders, encoders, learned prompts, optimal transport, heads."""

import getpass
import os

__version__ = "0.2.0"

try:
    getpass.getuser()
except (KeyError, OSError):  # of a container's user without a name, for which torch's import asks
    os.environ["USER"] = str(os.getuid())

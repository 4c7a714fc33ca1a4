"""A light implementation of the Dassl API (see engine/README.md)."""

import getpass
import os

__version__ = "0.6.3+light.0.1.0"

try:
    getpass.getuser()
except (KeyError, OSError):  # of a container's user without a name, for which torch's import asks
    os.environ["USER"] = str(os.getuid())

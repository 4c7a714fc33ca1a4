"""Memory of this process; the module loads neither torch nor NumPy, so that a measurement does not count them."""

import re
import sys
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows
    resource: Any = None  # type: ignore[no-redef]


def peak_bytes() -> int | None:
    """Return the largest memory of this process so far, in bytes; None if the system does not report it."""
    status = Path("/proc/self/status")  # on Linux, what getrusage reports starts with the parent's memory
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

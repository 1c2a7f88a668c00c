"""What this process holds of the machine's memory, and the most that it has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024


def resident_bytes() -> int:
    """Return what is held now; where the system does not say, the most that was."""
    return _status("VmRSS")


def highest_resident_bytes() -> int:
    """Return the most that was held.

    Not `ru_maxrss` where there is another way: on Linux it outlives an exec, and so counts what the process held that started this one.
    """
    return _status("VmHWM")


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT

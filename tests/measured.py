"""One measurement of this computer's processor for all homes of the tests.

It takes both cores for half a minute, far more in bf16 where they have no instructions for it, and each home of its own would make its own.
"""

import os
import tempfile
from pathlib import Path


def shared_by(home: Path) -> Path:
    """Let a home that is not there yet keep its measurements where the others do; return it."""
    kept = Path(tempfile.gettempdir()) / f"lumina-tests-{os.getuid()}" / "cpu"
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "cpu").exists():
        (home / "cpu").symlink_to(kept)
    return home

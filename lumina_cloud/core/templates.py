"""Finds the templates: beside the packages in a checkout, inside `lumina_cloud` in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """Return the folder of templates. Raises FileNotFoundError for a broken installation."""
    for candidate in (_PACKAGE / "_templates", _PACKAGE.parent / "templates"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no templates beside {_PACKAGE}")

"""The data files that come with the package, read once."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any


@cache
def read(name: str) -> dict[str, Any]:
    """Return the parsed `catalog/data/NAME.toml`. It is shared: callers read it and change nothing."""
    text = resources.files("lumina_cloud.catalog").joinpath("data", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)

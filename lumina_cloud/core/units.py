"""Quantities as a person reads them. Memory is GiB (2^30 bytes) and says so."""

from __future__ import annotations

GIB = 1 << 30


def gib(n_bytes: float) -> float:
    """Return bytes as GiB."""
    return n_bytes / GIB


def count(value: float) -> str:
    """Return a number with a suffix: `1.5M`, `140B`, `512`."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def n_bytes(value: float) -> str:
    """Return a size: `512 B`, `3.2 MiB`, `98 GiB`."""
    for size, suffix in ((1 << 40, "TiB"), (GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Return a span of time: `47 s`, `12 min`, `5.8 h`, `2.2 days`, `185 days`, `12 years`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds < 2 * 365 * 86400:
        days = seconds / 86400
        return f"{days:.1f} days" if days < 100 else f"{days:.0f} days"
    return f"{seconds / (365 * 86400):,.0f} years"

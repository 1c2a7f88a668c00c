"""The price book: what machines cost per hour, from `data/prices.toml` and the user's own file.

A price is of the whole machine, all its GPUs together, in `Decimal` dollars. On the two markets that rent several GPUs of one
kind, machines of 2, 4 and 8 GPUs that have no price of their own are derived from the single GPU's, and their source says so.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lumina_cloud.catalog import gpus, toml_data
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PROVIDERS = ("runpod", "vastai", "lambda")
"""Whose machines have prices here; this computer's own is `[local] usd_per_hour`."""

MULTI_GPU_MARKETS = ("runpod", "vastai")
DERIVED_COUNTS = (2, 4, 8)

_FIELDS = ("provider", "gpu", "count", "usd_per_hour", "interruptible", "rented", "date", "source")
_EXAMPLE = '[[prices]] with provider = "vastai", gpu = "RTX4090", usd_per_hour = "0.34"'
_LOCAL_EXAMPLE = '[local] with usd_per_hour = "0.05"'
_MAX_COUNT = 1024


@dataclass(frozen=True)
class Price:
    """What one kind of machine costs."""

    provider: str
    gpu: str
    """Name in the GPU catalog."""
    count: int
    usd_per_hour: Decimal
    """The whole machine."""
    interruptible: bool
    date: date | None
    """The day the price was seen; None for one that came without a date."""
    source: str
    rented: bool = True
    """False for a price that was published of what its provider does not rent."""

    @property
    def key(self) -> tuple[str, str, int, bool]:
        """What makes two prices be of the same thing."""
        return (self.provider, self.gpu, self.count, self.interruptible)


@dataclass(frozen=True)
class PriceBook:
    """All prices known."""

    prices: tuple[Price, ...]


def load(overrides: Path | None = None) -> PriceBook:
    """Return the price book with the `[[prices]]` of the user's TOML file in place of or beside the default ones.

    A file that does not exist overrides nothing. Raises UsageError naming the file, the key and its value for a malformed one.
    """
    default = _parse(toml_data.read("prices"), "the price book that comes with Lumina")
    own = [] if overrides is None else _parse(_read(overrides), str(overrides))
    book = {price.key: price for price in (*default, *own)}
    return PriceBook(tuple(_with_derived(book.values())))


def _with_derived(prices: Iterable[Price]) -> Iterator[Price]:
    """Yield the prices in order, each single GPU's followed by machines of several that have no price of their own."""
    known = {price.key: price for price in prices}
    for price in known.values():
        yield price
        if price.count != 1 or price.provider not in MULTI_GPU_MARKETS:
            continue
        for n in DERIVED_COUNTS:
            several = replace(
                price, count=n, usd_per_hour=price.usd_per_hour * n, source=f"derived: {n} x the single GPU's ({price.source})"
            )
            if several.key not in known:
                yield several


# --- reading -------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "make it readable, or remove it") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "mend that line, or remove the file") from error


def _parse(table: dict[str, Any], where: str) -> list[Price]:
    rows = table.get("prices", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{where}: prices is {rows!r}, but must be a list of tables", _EXAMPLE)
    return [_price(row, f"{where}: prices[{nth}]") for nth, row in enumerate(rows)]


def _price(row: dict[str, Any], where: str) -> Price:
    unknown = sorted(set(row) - set(_FIELDS))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r} with the value {row[unknown[0]]!r}", f"known: {', '.join(_FIELDS)}")
    missing = [name for name in ("provider", "gpu", "usd_per_hour") if name not in row]
    if missing:
        raise UsageError(f"{where}: {missing[0]} is missing", _EXAMPLE)
    return Price(
        provider=_provider(row["provider"], where),
        gpu=_gpu_name(row["gpu"], where),
        count=_count(row.get("count", 1), where),
        usd_per_hour=_usd(row["usd_per_hour"], where),
        interruptible=_flag(row.get("interruptible", False), where, "interruptible"),
        date=_date(row.get("date"), where),
        source=str(row.get("source", where)),
        rented=_flag(row.get("rented", True), where, "rented"),
    )


def _provider(value: object, where: str) -> str:
    if value == "local":
        raise UsageError(f"{where}: provider is 'local', this computer, which is priced elsewhere", _LOCAL_EXAMPLE)
    if value not in PROVIDERS:
        raise UsageError(f"{where}: provider is {value!r}", f"known: {', '.join(PROVIDERS)}")
    return str(value)


def _gpu_name(value: object, where: str) -> str:
    try:
        name = gpus.resolve(str(value)).name
    except UsageError as error:
        raise UsageError(f"{where}: gpu is {value!r}: {error.message}", error.hint) from error
    if name == gpus.CPU:
        raise UsageError(f"{where}: gpu is {value!r}, this computer's processor, which is priced elsewhere", _LOCAL_EXAMPLE)
    return name


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
        raise UsageError(f"{where}: count is {value!r}", f"a whole number of GPUs, 1 to {_MAX_COUNT}")
    return value


def _usd(value: object, where: str) -> Decimal:
    hint = 'an amount in dollars above zero, as text: usd_per_hour = "0.34"'
    try:
        # A TOML number is taken by its shortest decimal text, which is what was typed.
        amount = money.usd(str(value))
    except ValueError:
        raise UsageError(f"{where}: usd_per_hour is {value!r}", hint) from None
    if isinstance(value, bool) or not Decimal("0.000001") <= amount <= Decimal(1_000_000):
        raise UsageError(f"{where}: usd_per_hour is {value!r}", hint)
    return amount


def _flag(value: object, where: str, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}: {name} is {value!r}", "true or false")
    return value


def _date(value: object, where: str) -> date | None:
    if value is None:
        return None
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise UsageError(f"{where}: date is {value!r}", "a day such as 2026-01-31") from None

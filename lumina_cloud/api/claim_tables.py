"""A user's own table of claims, read from CSV or TOML for `lumina audit FILE`.

One row a claim; every column may be missing or empty. Figures are taken as people write them: `96,000`, `20B`, `$1.97`, `8 min`,
`2.2 days`, `2x A100 80GB`. A TOML file has the same columns in `[[rows]]`, and `[[breakdowns]]` with `row`, `total_hours`, `part_hours`.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

from lumina_cloud.api import claim_figures
from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner.claims import Claim, Claims, Measure, Parts
from trainer.config import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

COLUMNS: dict[str, tuple[str, ...]] = {
    "row": ("name",),
    "model": ("size",),
    "arch": ("architecture",),
    "tokens": ("training_tokens", "total_tokens"),
    "tokens_per_second": ("tokens_s", "tok_s", "tokens_sec", "throughput", "speed"),
    "hours": ("time", "training_time", "time_hours", "time_h"),
    "usd": ("cost", "cost_usd", "total_usd"),
    "usd_per_hour": ("price", "price_per_hour", "usd_h", "hourly"),
    "usd_per_billion_tokens": ("cost_per_billion", "cost_per_1b_tokens", "cost_per_token", "usd_per_1b_tokens"),
    "provider": (),
    "gpu": ("hardware", "card"),
    "gpus": ("count", "n_gpus", "gpu_count"),
    "vram_gb": ("memory_gb", "vram", "peak_vram", "memory", "peak_memory_gb"),
    "active_parameters": ("active", "parameters_active", "params_active", "active_params"),
    "total_parameters": ("total", "parameters_total", "params_total", "total_params", "parameters", "params"),
    "n_experts": ("experts",),
    "top_k": ("topk",),
    "loss": ("final_loss",),
    "ppl": ("perplexity", "final_ppl"),
    "seq_len": ("sequence_length", "seq", "sequence"),
    "micro_batch": ("batch_size", "micro_batch_size"),
    "grad_accum": ("gradient_accumulation", "accumulation", "grad_accumulation"),
    "batch_tokens": ("global_batch", "global_batch_tokens", "effective_batch", "tokens_per_batch"),
    "capacity": ("mod_capacity",),
    "skip_rate_percent": ("skip_rate",),
    "flops_reduction_percent": ("flops_reduction",),
    "loss_vs_dense_percent": (),
    "hours_vs_dense_percent": ("time_vs_dense_percent",),
    "tokens_per_second_vs_dense_percent": ("speed_vs_dense_percent",),
    "usd_vs_dense_percent": ("cost_vs_dense_percent",),
    "winner": ("best_in",),
    "part_hours": ("breakdown", "parts"),
}
"""Columns of a table, and other names that they are understood by."""

_BY_NAME = {alias: name for name, aliases in COLUMNS.items() for alias in (name, *aliases)}
_TEXTS = ("row", "model", "arch", "provider")
_COUNTS = ("gpus", "n_experts", "top_k", "seq_len", "micro_batch", "grad_accum", "batch_tokens")
_MONEY = ("usd", "usd_per_hour", "usd_per_billion_tokens")
_WINNERS: dict[str, Measure] = {"quality": "loss", "fastest": "hours", "time": "hours", "speed": "tokens_per_second", "cost": "usd"}
_WINNERS.update({"cheapest": "usd", "budget": "usd", **{m: m for m in get_args(Measure)}})
_NO_FIGURE = ("all-around", "overall")
"""Categories that may stand in a table, and do not say which figure is the best."""
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_BYTES = 16 << 20


def read(path: Path) -> tuple[Claims, tuple[str, ...]]:
    """Return the claims of a file, and the columns in it that are not understood.

    Raises UsageError for a file that cannot be read, is neither CSV nor TOML, or has a figure that is no figure.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes: that is no table of claims", "one row a training run")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "lumina audit takes a CSV or TOML file") from error
    rows, breakdowns = _toml(text, path) if path.suffix.lower() == ".toml" else (_csv(text, path), [])
    ignored: dict[str, None] = {}
    claims, parts = [], [_parts(raw, path) for raw in breakdowns]
    for number, raw in enumerate(rows, 1):
        _refuse_doubles(list(raw), path)
        known = {}
        for column, value in raw.items():
            name = _BY_NAME.get(_plain(column))
            if name is None:
                ignored[untrusted.line(column, 60)] = None
            elif value not in (None, "", "-"):
                known[name] = value
        claim, own_parts = _claim(known, f"{path} row {number}", number)
        claims.append(claim)
        parts += own_parts
    return Claims(tuple(claims), tuple(parts)), tuple(ignored)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _csv(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        header, *rows = [cells for cells in csv.reader(io.StringIO(text), strict=True) if cells] or [[]]
    except csv.Error as error:
        raise UsageError(f"{path} is not valid CSV: {error}", _hint()) from error
    for delimiter, name in _DELIMITERS.items():
        if _n_known(",".join(header).split(delimiter)) > _n_known(header):
            raise UsageError(f"{path} is separated by {name} ({delimiter!r}), not by commas", "save it with commas, figures as in 1.97")
    if not rows or not _n_known(header):
        raise UsageError(f"{path} has no row with a column that is known", _hint())
    _refuse_doubles(header, path)
    for number, cells in enumerate(rows, 1):
        if any(cells[len(header) :]):
            hint = 'a figure with a comma in it needs quotes, as in "96,000"'
            raise UsageError(f"{path} row {number} has {len(cells)} cells, the header {len(header)}", hint)
    return [dict(zip(header, cells, strict=False)) for cells in rows]


def _n_known(columns: Sequence[str]) -> int:
    return sum(_plain(column) in _BY_NAME for column in columns)


def _refuse_doubles(columns: Sequence[str], path: Path) -> None:
    """Refuse two columns of one meaning: one of them would be left out unseen."""
    seen: dict[str, str] = {}
    for column in columns:
        name = _BY_NAME.get(_plain(column))
        if name in seen:
            said = f"{untrusted.line(seen[name], 60)!r} and {untrusted.line(column, 60)!r}"
            raise UsageError(f"{path}: the columns {said} both mean {name}", "leave one of them out")
        if name is not None:
            seen[name] = column


def _toml(text: str, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "rows as [[rows]] tables") from error
    parts = []
    for name in ("rows", "breakdowns"):
        found = table.get(name, [])
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise UsageError(f"{path}: {name} is no list of tables", f"one claim a table: [[{name}]]")
        parts.append(found)
    if not parts[0] and not parts[1]:
        raise UsageError(f"{path} has no [[rows]] and no [[breakdowns]]", _hint())
    return parts[0], parts[1]


def _hint() -> str:
    return f"columns: {', '.join(COLUMNS)}"


def _claim(raw: Mapping[str, Any], where: str, number: int) -> tuple[Claim, list[Parts]]:
    values: dict[str, Any] = {name: untrusted.line(raw[name], 120) for name in _TEXTS if name in raw}
    values["arch"] = values.get("arch", "").lower()
    values.setdefault("row", "/".join(p for p in (values.get("model", ""), values["arch"]) if p) or f"row {number}")
    if "gpu" in raw:
        times, values["gpu"] = _machine(str(raw["gpu"]))
        values["gpus"] = times
    plain = {f.name for f in fields(Claim)} - {
        "row",
        "gpu",
        "against_dense",
        "winner",
        "best_in",
        "depth_routed_total",
        "batch_text",
        "batch_rounding",
        *_TEXTS,
    }
    for name in plain & raw.keys():
        values[name] = _reader(name)(raw[name], f"{where}: {name}")
    if "seq_len" not in raw and values.get("model") not in MODELS:
        values["seq_len"] = None
    if "batch_tokens" in raw:
        values["batch_text"] = untrusted.line(raw["batch_tokens"], 40)
        values["batch_rounding"] = claim_figures.count_rounding(raw["batch_tokens"])
    values["against_dense"] = tuple(
        (measure, claim_figures.number(raw[f"{measure}_vs_dense_percent"], f"{where}: {measure}_vs_dense_percent", signed=True))
        for measure in get_args(Measure)
        if f"{measure}_vs_dense_percent" in raw
    )
    if "winner" in raw:
        words = [word for word in re.split(r"[,;+ ]+", str(raw["winner"]).strip().lower()) if word]
        values["winner"] = tuple(_winner(word, where) for word in words if word not in _NO_FIGURE)
        values["best_in"] = tuple(word for word in words if word in _NO_FIGURE)
    claim = Claim(**values)
    parts = []
    if "part_hours" in raw and claim.hours is not None:
        listed = raw["part_hours"] if isinstance(raw["part_hours"], list) else re.split(r"[;+]", str(raw["part_hours"]))
        parts.append(_breakdown(claim.row, raw["hours"], listed, f"{where}: part_hours"))
    return claim, parts


def _reader(name: str) -> Callable[[Any, str], Any]:
    """Return how the figures of a column are read."""
    if name in _MONEY:
        return claim_figures.money
    if name in _COUNTS:
        return claim_figures.count
    return {"capacity": claim_figures.share, "hours": claim_figures.hours}.get(name, claim_figures.number)


def _parts(raw: Mapping[str, Any], path: Path) -> Parts:
    listed = raw.get("part_hours")
    if "total_hours" not in raw or not isinstance(listed, list):
        raise UsageError(f"{path}: a breakdown needs total_hours and part_hours", "part_hours = [1.9, 1.8, 0.2]")
    where = f"{path}: breakdowns"
    return _breakdown(untrusted.line(raw.get("row", ""), 120), raw["total_hours"], listed, where)


def _breakdown(row: str, total: Any, listed: Sequence[Any], where: str) -> Parts:
    return Parts(
        f"breakdown/{row}",
        claim_figures.hours(total, where),
        tuple(claim_figures.hours(part, where) for part in listed),
        sum(claim_figures.hours_rounding(figure, where) for figure in (total, *listed)),
    )


def _winner(word: str, where: str) -> Measure:
    if word not in _WINNERS:
        raise UsageError(f"{where}: winner is {untrusted.line(word, 40)!r}", f"known: {', '.join(sorted((*_WINNERS, *_NO_FIGURE)))}")
    return _WINNERS[word]


def _machine(text: str) -> tuple[int, str]:
    """Return number and kind of GPUs: `2x A100 80GB` is (2, "A100 80GB")."""
    found = re.fullmatch(r"\s*(\d{1,4})\s*[x*]\s*(.+)", text, re.IGNORECASE)
    return (int(found[1]), untrusted.line(found[2].strip(), 60)) if found else (1, untrusted.line(text.strip(), 60))

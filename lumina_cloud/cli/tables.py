"""Documents as tables for people. Each verb's answer comes first, then one line that says what to do next."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from lumina_cloud.api import schema

ROWS_PER_ARCH = 8
"""Rows of a plan that a person is shown per architecture; `--json` has all."""


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table in the house's style; columns named in `right` hold figures."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    rightward = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in rightward else "left", no_wrap=column in rightward)
    return made


# --- plan ----------------------------------------------------------------------------------------------------------------


def plan(document: schema.PlanDocument) -> list[RenderableType]:
    """Return a plan's answer, its table, the published rows beside it, and what to type next."""
    parts: list[RenderableType] = [_answer(document), ""]
    for arch, rows in groupby(document.rows, key=lambda r: r.arch):
        parts.append(_plan_table(document, arch, list(rows)))
    if document.published:
        parts.append(_published_table(document.published))
    parts += [Text(f"· {note}", style="dim") for note in document.notes]
    parts.append(_next_step(document))
    return parts


def _answer(document: schema.PlanDocument) -> Text:
    best = document.recommendation
    if best is None:
        text = Text("nothing in the price book can train this", style="bold red")
        for line in document.refused[:6]:
            text.append(f"\n· {line}", style="dim")
        return text
    text = Text("take ", style="bold")
    text.append(f"{best.count} x {best.gpu} at {best.provider}", style="bold green")
    text.append(f" for {best.model} {best.arch}: {_money(best.usd)}, {_hours(best.hours)}")
    text.append(f"\n{best.reason}", style="dim")
    return text


def _plan_table(document: schema.PlanDocument, arch: str, rows: list[schema.PlanRow]) -> Table:
    work = next(w for w in document.workloads if w.arch == arch)
    title = (
        f"{work.model} {arch}: {units.count(work.parameters_active)} active parameters of {units.count(work.parameters_total)}, "
        f"{units.count(work.tokens)} tokens, {work.steps:,} steps"
    )
    figures = ("$/h", "GiB of", "tokens/s", "time", "cost", "loss")
    made = table(title, "GPU", "from", "$/h", "fits", "GiB of", "tokens/s", "time", "cost", "loss", right=figures)
    ordered = sorted(rows, key=lambda r: (not r.fits, Decimal(r.usd.mid)))
    for r in ordered[:ROWS_PER_ARCH]:
        made.add_row(
            f"{r.count} x {r.gpu}",
            r.provider + (" (interruptible)" if r.interruptible else ""),
            _price(r.usd_per_hour),
            Text("yes", style="green") if r.fits else Text("no", style="red"),
            f"{r.memory_gib.mid:.1f} / {r.usable_memory_gib:.1f}",
            units.count(r.tokens_per_second.mid),
            _hours(r.hours),
            _money(r.usd),
            f"{r.loss.low:.2f}-{r.loss.high:.2f}",
            style=None if r.fits else "dim",
        )
    if len(ordered) > ROWS_PER_ARCH:
        made.caption = f"and {len(ordered) - ROWS_PER_ARCH} more: --json shows all"
    return made


def _published_table(rows: list[schema.Published]) -> Table:
    figures = ("loss", "hours", "GB", "tokens/s", "$")
    made = table("published (shown, never used)", "model", "loss", "hours", "GB", "tokens/s", "$", "checks that it fails", right=figures)
    for p in rows:
        made.add_row(
            f"{p.model} {p.arch}",
            f"{p.loss:g}",
            f"{p.hours:.3g}",
            f"{p.vram_gb:g}",
            f"{p.tokens_per_second:,.0f}",
            p.usd,
            Text("; ".join(p.fails) or "none", style="yellow" if p.fails else ""),
        )
    return made


def _next_step(document: schema.PlanDocument) -> Text:
    best = document.recommendation
    if best is None:
        return Text("next: another model, fewer tokens (--tokens), or more machines in config.toml")
    return Text(f"next: lumina launch --plan {document.plan} --provider {best.provider}    (plan {document.plan} is kept)")


# --- launch --------------------------------------------------------------------------------------------------------------


def launch(document: schema.DryRun) -> list[RenderableType]:
    """Return what will be rented, and the most it can cost."""
    row, work = document.row, document.workload
    made = table(f"{row.model} {row.arch} on {row.count} x {row.gpu} at {row.provider}", "", "")
    made.show_header = False
    layout = row.layout
    made.add_row(
        "work", f"{units.count(work.tokens)} tokens in {work.steps:,} steps of {work.global_batch_tokens:,}, {work.epochs:.2f} epochs"
    )
    made.add_row("data", work.data)
    made.add_row(
        "layout",
        f"micro batch {layout.micro_batch} x accumulation {layout.grad_accum}, ZeRO stage {layout.zero_stage}, "
        f"checkpointing {layout.checkpointing}, offload {layout.offload}",
    )
    made.add_row("memory", f"{row.memory_gib.mid:.2f} GiB (up to {row.memory_gib.high:.2f}) of {row.usable_memory_gib:.1f}")
    made.add_row("time", _hours(row.hours))
    made.add_row("price", f"{_price(row.usd_per_hour)} an hour" + (", interruptible" if row.interruptible else ""))
    made.add_row("cost", _money(row.usd))
    most = Text(f"{money.show(Decimal(document.usd_cap))}: it is ended in good order before it costs more", style="bold")
    made.add_row(Text("at most", style="bold"), most)
    return [made]


# --- status, results, costs ----------------------------------------------------------------------------------------------

STATE_STYLES = {"succeeded": "green", "failed": "red", "stopped": "yellow"}


def status(document: schema.StatusDocument) -> list[RenderableType]:
    """Return runs, newest first, and the rentals that may cost money."""
    if not document.runs:
        return [Text("no runs yet"), Text("next: lumina plan debug --arch all", style="dim")]
    figures = ("step", "loss", "spent", "cap")
    made = table("runs", "run", "state", "where", "since", "step", "loss", "spent", "cap", "ends about", right=figures)
    for r in document.runs:
        made.add_row(
            r.run,
            Text(r.state, style=STATE_STYLES.get(r.state, "cyan")),
            f"{r.provider} {r.gpu}",
            _time(r.started_at),
            f"{r.step:,}/{r.steps:,}" if r.step and r.steps else "-",
            f"{r.loss:.3f}" if r.loss is not None else "-",
            money.show(Decimal(r.usd_spent)),
            money.show(Decimal(r.usd_cap)),
            _time(r.estimated_end or r.ended_at),
        )
    if not document.rentals:
        return [made, Text("nothing is rented now", style="green")]
    rented = table("rented now", "rental", "provider", "instance", "state")
    for rental in document.rentals:
        rented.add_row(rental.rental, rental.provider, rental.instance or "-", rental.state)
    return [made, rented, Text("next: lumina logs -f last    or    lumina stop last", style="dim")]


def results(document: schema.ResultsDocument) -> list[RenderableType]:
    """Return planned beside actual, the files, and a sample of the model's text."""
    planned, actual = document.planned, document.actual
    title = f"{document.run}: {document.state}" + (f" ({document.reason_text})" if document.reason_text else "")
    made = table("", "", "planned", "actual", right=("planned", "actual"))
    for name, of_plan, of_run in (
        ("time", _seconds(planned.seconds), _seconds(actual.seconds)),
        ("cost", _amount(planned.usd), _amount(actual.usd)),
        ("peak memory", _gib(planned.peak_memory_gib), _gib(actual.peak_memory_gib)),
        ("tokens/s", _figure(planned.tokens_per_second, ",.0f"), _figure(actual.tokens_per_second, ",.0f")),
        ("validation loss", _figure(planned.loss, ".3f"), _figure(actual.loss, ".3f")),
    ):
        made.add_row(name, of_plan, of_run)
    parts: list[RenderableType] = [Text(title, style="bold"), made]
    if document.loss_first is not None and document.loss_last is not None:
        parts.append(Text(f"validation loss {document.loss_first:.3f} before the first step, {document.loss_last:.3f} after the last"))
    sample = document.details.get("sample")
    if isinstance(sample, dict) and sample.get("text"):
        parts += ["", Text("what it writes:", style="bold"), Text(str(sample.get("prompt") or "") + str(sample["text"]))]
    if document.state == "failed" and document.log_tail:
        parts += ["", Text("the end of its log:", style="bold"), Text(document.log_tail)]
    size = sum(a.bytes for a in document.artifacts)
    parts += ["", Text(f"{len(document.artifacts)} files, {units.n_bytes(size)}, in {document.folder}")]
    verb = "resume" if document.state in ("failed", "stopped") else "report"
    return [*parts, Text(f"next: lumina {verb} {document.run}", style="dim")]


def costs(document: schema.CostsDocument) -> list[RenderableType]:
    """Return spending by one key, the total first."""
    total = Text(f"{money.show(Decimal(document.total_usd))} spent in all", style="bold")
    if not document.rows:
        return [total]
    made = table(f"by {document.by}", document.by, "cost", "machine hours", "runs", right=("cost", "machine hours", "runs"))
    for row in document.rows:
        made.add_row(row.key, money.show(Decimal(row.usd)), f"{row.hours:.3f}", str(row.runs))
    return [total, made]


# --- cells ---------------------------------------------------------------------------------------------------------------


def _price(text: str) -> str:
    return f"${Decimal(text):.2f}"


def _money(amount: schema.MoneyRange) -> str:
    return f"{money.show(Decimal(amount.mid))} ({money.show(Decimal(amount.low))}-{money.show(Decimal(amount.high))[1:]})"


def _hours(hours: schema.Range) -> str:
    return units.duration(hours.mid * 3600)


def _seconds(value: float | None) -> str:
    return "-" if value is None else units.duration(value)


def _amount(value: str | None) -> str:
    return "-" if value is None else money.show(Decimal(value))


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} GiB"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _time(text: str | None) -> str:
    """Return a moment in the reader's own time zone, to the minute."""
    if text is None:
        return "-"
    from lumina_cloud.core.clock import parse_iso

    return f"{parse_iso(text).astimezone():%m-%d %H:%M}"

"""Documents as tables for people. Each verb's answer comes first, then one line that says what to do next."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from lumina_cloud.core import money, units

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_plans, of_runs, root

ROWS_PER_ARCH = 8
"""Rows of a plan that a person is shown per architecture; `--json` has all."""

REFUSED = 4
"""Machines of which a person is told why they are not the one; `--json` has all."""

WIDE = 116
"""Columns of a terminal from which on a plan shows prices per hour and ranges of cost too."""


def table(title: str, *columns: str, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """Return an empty table in the house's style; columns named in `right` hold figures, those in `whole` are never wrapped."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    rightward, unwrapped = set(right), {*right, *whole}
    for column in columns:
        # A word that is longer than its column is folded: a path that is cut off cannot be typed.
        whole_cells = column in unwrapped
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if whole_cells else "fold"
        made.add_column(column, justify="right" if column in rightward else "left", no_wrap=whole_cells, overflow=overflow)
    return made


def next_step(words: str) -> Text:
    """Return the last line of an answer: what to type next."""
    return Text(f"next: {words}", style="dim")


# --- plan ----------------------------------------------------------------------------------------------------------------


def plan(document: of_plans.PlanDocument, *, width: int) -> list[RenderableType]:
    """Return a plan's answer, its table, the published rows beside it, and what to type next, for a terminal of `width` columns."""
    parts: list[RenderableType] = [_answer(document), ""]
    for arch, rows in groupby(document.rows, key=lambda r: r.arch):
        parts.append(_plan_table(document, arch, list(rows), wide=width >= WIDE))
    if document.recipes:
        parts.append(_recipes(document.recipes))
    if document.published:
        parts += _published(document.published)
    for misfit in document.misfits:
        parts += _misfit(misfit, wide=width >= WIDE)
    parts += [Text(line) for line in document.explanation]
    parts += [Text(f"· {note}", style="dim") for note in document.notes]
    parts.append(_next_step(document))
    return parts


def _answer(document: of_plans.PlanDocument) -> Text:
    best = document.recommendation
    if best is None:
        text = Text.assemble(("no machine that was priced can train this", "bold red"))
        for line in document.refused[:6]:
            text.append(f"\n· {line}", style="dim")
        return text
    text = Text.assemble(("take ", "bold"), (f"{best.count} x {best.gpu} at {best.provider}", "bold green"))
    text.append(f" for {best.model} {best.arch}: {_money(best.usd)}, {_hours(best.hours)}", style="bold")
    text.append(f"\n{best.reason}", style="dim")
    for line in document.refused[:REFUSED]:
        text.append(f"\n· not {line}", style="dim")
    return text


def _misfit(misfit: of_plans.Misfit, *, wide: bool) -> list[RenderableType]:
    """Return what would make a machine fit."""
    if not misfit.remedies:
        return [Text(f"{misfit.text}; no change of layout, sequence, number of GPUs or architecture is enough", style="yellow")]
    figures = ("time", "of before", "cost", "GiB a GPU", "main memory") if wide else ("time", "cost", "GiB a GPU")
    made = table(f"{misfit.text}; what would make it fit", "change", *figures, right=figures)
    for r in misfit.remedies:
        changes = ", ".join(f"{c.name} {c.before} → {c.after}" for c in r.changes)
        host = f"{r.host_memory_gib:.0f} GiB" if r.host_memory_gib else "-"
        cells = {
            "time": _hours(r.hours),
            "of before": f"x {r.slowdown:.2f}",
            "cost": _money(r.usd) if wide else money.show(Decimal(r.usd.mid), cents=Decimal(r.usd.mid) < 1000),
            "GiB a GPU": f"{r.memory_upper_gib:.1f}",
            "main memory": host,
        }
        made.add_row(changes, *(cells[name] for name in figures))
    return [made]


def _plan_table(document: of_plans.PlanDocument, arch: str, rows: list[of_plans.PlanRow], *, wide: bool) -> Table:
    work = next(w for w in document.workloads if w.arch == arch)
    title = (
        f"{work.model} {arch}: {units.count(work.parameters_active)} active parameters of {units.count(work.parameters_total)}, "
        f"{units.count(work.tokens)} tokens, {work.steps:,} steps, loss {rows[0].loss.low:.2f}-{rows[0].loss.high:.2f}"
    )
    names = (
        ("GPU", "from", "$/h", "fits", "GiB of", "tokens/s", "time", "cost")
        if wide
        else ("GPU", "from", "GiB of", "tokens/s", "time", "cost")
    )
    made = table(title, *names, right=("$/h", "GiB of", "tokens/s", "time", "cost"), whole=("GPU", "from", "fits"))
    # What does not fit stays as it comes: what lacks least memory first.
    ordered = sorted(rows, key=lambda r: (not r.fits, Decimal(r.usd.mid) if r.fits else Decimal(0)))
    for r in ordered[:ROWS_PER_ARCH]:
        cells = _plan_cells(r, wide=wide)
        made.add_row(*(cells[name] for name in names), style=None if r.fits else "dim")
    notes = ["* interruptible"] if any(r.interruptible for r in ordered[:ROWS_PER_ARCH]) else []
    if any(r.front for r in ordered[:ROWS_PER_ARCH]):
        notes.append("◆ nothing else is both cheaper and sooner")
    if len(ordered) > ROWS_PER_ARCH:
        notes.append(f"and {len(ordered) - ROWS_PER_ARCH} more machines: --json shows all")
    made.caption, made.caption_justify = "; ".join(notes) or None, "left"
    return made


def _plan_cells(r: of_plans.PlanRow, *, wide: bool) -> dict[str, RenderableType]:
    """Return what a row can show, by column."""
    memory = f"{r.memory_gib.mid:.1f} / {r.usable_memory_gib:.1f}"
    tight = f"{r.memory_gib.mid:.0f} / {r.usable_memory_gib:.0f}"
    return {
        "GPU": f"{r.count} x {r.gpu}" + (" ◆" if r.front else ""),
        "from": r.provider + ("*" if r.interruptible else ""),
        "$/h": _price(r.usd_per_hour),
        "fits": Text("yes", style="green") if r.fits else Text("no", style="red"),
        "GiB of": memory if wide else tight if r.fits else Text(f"no: {tight}", style="red"),
        "tokens/s": units.count(r.tokens_per_second.mid) if r.fits else "-",
        "time": _hours(r.hours) if r.fits else "-",
        "cost": "-" if not r.fits else _money(r.usd) if wide else money.show(Decimal(r.usd.mid), cents=Decimal(r.usd.mid) < 1000),
    }


def _recipes(rows: list[of_plans.RecipeRow]) -> Table:
    first = rows[0]
    title = f"ways to route over depth, on {first.count} x {first.gpu} ({first.provider}); --recipe chooses"
    figures = ("FLOPs", "tokens/s", "time", "cost")
    made = table(title, "arch", "recipe", "routed blocks", "tokens in them", *figures, right=figures, whole=("arch", "recipe"))
    for r in rows:
        every = "all" if r.mod_every == 1 else f"1 of {r.mod_every}"
        made.add_row(
            *(r.arch, r.recipe, every, f"{r.mod_capacity:.1%}", f"-{r.flops_saved:.0%}"),
            *(f"{r.tokens_per_second.mid:,.0f}", units.duration(r.hours.mid * 3600), money.show(Decimal(r.usd.mid))),
        )
    return made


def _published(rows: list[of_plans.Published]) -> list[RenderableType]:
    """Return the published rows, and under them the checks that each fails."""
    figures = ("loss", "hours", "GB", "tokens/s", "$")
    made = table("published (shown, never used)", "model", *figures, "hardware", right=figures, whole=("model",))
    for p in rows:
        hours = f"{p.hours:.3g}"
        made.add_row(f"{p.model} {p.arch}", f"{p.loss:g}", hours, f"{p.vram_gb:g}", f"{p.tokens_per_second:,.0f}", p.usd, p.hardware)
    # Only the mark is coloured: yellow words on a white ground are hard to read.
    failed = [Text.assemble(("✗ ", "yellow"), f"{p.model} {p.arch}: {fail}") for p in rows for fail in p.fails]
    return [made, *failed, ""]


def _next_step(document: of_plans.PlanDocument) -> Text:
    best = document.recommendation
    if best is None:
        return Text("next: another model, fewer tokens (--tokens), or more machines in config.toml")
    machine = "" if best.provider == "local" else f" --gpu {best.gpu}" + (f" --count {best.count}" if best.count > 1 else "")
    return Text(f"next: lumina launch --plan {document.plan} --provider {best.provider}{machine}")


# --- launch --------------------------------------------------------------------------------------------------------------


def _kept(kept: of_plans.Kept) -> list[tuple[str, str]]:
    """Return where a rented run's work goes, and what the machine is given."""
    where = "home" if kept.where == "home" else "into the object storage"
    rows = [
        (
            "kept",
            f"checkpoints of {kept.checkpoint_gb:.3g} GB, one in {units.duration(kept.interval_seconds)}, "
            f"go {where} in about {units.duration(kept.checkpoint_seconds)}, "
            f"results of {kept.results_gb:.3g} GB come home; a disk of {kept.disk_gb} GB is in the price",
        )
    ]
    return [*rows, ("secrets", f"the machine is given {', '.join(kept.secrets)}")] if kept.secrets else rows


def launch(document: of_plans.DryRun) -> list[RenderableType]:
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
    if seconds := document.config["training"].get("measure_seconds"):
        made.add_row(
            "kept", f"nothing but figures: it measures {units.duration(seconds)} of steps at most, and saves no checkpoint and no weights"
        )
    elif document.kept is not None:
        for what, words in _kept(document.kept):
            made.add_row(what, words)
    made.add_row("price", f"{_price(row.usd_per_hour)} an hour" + (", interruptible" if row.interruptible else ""))
    if row.interruptible:
        made.add_row("taken away", "it stops, and its disk is billed on until the next lumina command ends it: nothing runs that could")
    made.add_row("cost", _money(row.usd))
    if document.never_up is not None:
        given_back, lost = units.duration(document.never_up.seconds), money.show(Decimal(document.never_up.usd))
        made.add_row(
            "never up", f"a machine that does not come up is given back after {given_back}: {lost} are lost by then; another may be tried"
        )
    for c in document.price_changes:
        said = f"{c.what}: {money.show(Decimal(c.planned))} when it was planned, {money.show(Decimal(c.now))} now ({c.percent:+.1f} %)"
        made.add_row("price changed", Text(said, style="bold yellow"))
    made.add_row("on drift", "stop with a checkpoint" if document.on_drift == "stop" else "tell")
    most = Text(f"{money.show(Decimal(document.usd_cap))}: it is ended in good order before it costs more", style="bold")
    made.add_row(Text("at most", style="bold"), most)
    return [made]


# --- status, results -----------------------------------------------------------------------------------------------------

STATE_STYLES = {"succeeded": "green", "failed": "red", "stopped": "yellow"}


def status(document: of_runs.StatusDocument, *, width: int) -> list[RenderableType]:
    """Return runs, newest first, and the rentals that may cost money, for a terminal of `width` columns."""
    if not document.runs:
        return [Text("no runs yet"), next_step("lumina plan debug --arch all")]
    wide = ("run", "state", "where", "since", "step", "loss", "spent", "cap", "ends about")
    names = wide if width >= WIDE else ("run", "state", "done", "loss", "spent", "ends about")
    made = table("runs", *names, right=("step", "done", "loss", "spent", "cap"), whole=("run", "state", "since", "ends about"))
    for r in document.runs:
        cells = _status_cells(r)
        made.add_row(*(cells[name] for name in names))
    if document.more:
        made.caption = "and older ones: lumina status --all"
    if not document.rentals:
        return [made, Text("nothing is rented now", style="green"), next_step("lumina results last    or    lumina plan MODEL")]
    rented = table("rented now", "rental", "provider", "instance", "state")
    for rental in document.rentals:
        rented.add_row(rental.rental, rental.provider, rental.instance or "-", rental.state)
    return [made, rented, next_step("lumina status --watch    or    lumina logs -f last    or    lumina stop last")]


def _status_cells(r: of_runs.RunStatus) -> dict[str, RenderableType]:
    return {
        "run": r.run,
        "state": Text(r.state, style=STATE_STYLES.get(r.state, "cyan")),
        "where": f"{r.provider} {r.gpu}",
        "since": moment(r.started_at),
        "step": f"{r.step:,}/{r.steps:,}" if r.step and r.steps else "-",
        "done": f"{r.step / r.steps:.0%}" if r.step and r.steps else "-",
        "loss": f"{r.loss:.3f}" if r.loss is not None else "-",
        "spent": money.show(Decimal(r.usd_spent)),
        "cap": money.show(Decimal(r.usd_cap)),
        "ends about": moment(r.estimated_end or r.ended_at),
    }


def results(document: of_runs.ResultsDocument) -> list[RenderableType]:
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
    return [*parts, next_step(f"lumina {verb} {document.run}")]


# --- cells ---------------------------------------------------------------------------------------------------------------


def _price(text: str) -> str:
    return f"${Decimal(text):.2f}"


def _money(amount: root.MoneyRange) -> str:
    """Return an estimate with its range; beyond a thousand dollars nobody reads the cents of one."""
    low, mid, high = Decimal(amount.low), Decimal(amount.mid), Decimal(amount.high)
    cents = mid < 1000
    return f"{money.show(mid, cents=cents)} ({money.show(low, cents=cents)}-{money.show(high, cents=cents)[1:]})"


def _hours(hours: root.Range) -> str:
    return units.duration(hours.mid * 3600)


def _seconds(value: float | None) -> str:
    return "-" if value is None else units.duration(value)


def _amount(value: str | None) -> str:
    return "-" if value is None else money.show(Decimal(value))


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} GiB"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def moment(text: str | None) -> str:
    """Return a moment in the reader's own time zone, to the minute."""
    if text is None:
        return "-"
    from lumina_cloud.core.clock import parse_iso

    return f"{parse_iso(text).astimezone():%m-%d %H:%M}"

"""`lumina compare` without runs: the published document's sections, each published figure beside ours. Touches no ledger."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.api import planning, refitting
from lumina_cloud.api.documents import of_claims
from lumina_cloud.catalog import benchmarks, gpus
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import sections
from lumina_cloud.planner.estimate import Machine
from lumina_cloud.planner.plan import estimate
from trainer.config import ARCHS, preset

if TYPE_CHECKING:
    from lumina_cloud.api.settings import Settings
    from lumina_cloud.catalog.benchmarks import Benchmark, Option
    from lumina_cloud.planner.plan import Row
    from lumina_cloud.planner.sections import Rows


def compare(settings: Settings) -> of_claims.SectionsDocument:
    """Return every section of the document computed from modelled figures, on the machines of the price book."""
    document = benchmarks.load()
    machines = [m for m in planning.machines(settings, planning.MachineFilter()) if m.provider != "local"]
    rows = sections.recommended(document, machines)
    won = sections.winners(rows) if rows else {}
    example = document.memory_example
    card = Machine("runpod", gpus.resolve(example.hardware), 1, Decimal(0), False)
    return of_claims.SectionsDocument(
        machines=len(machines),
        rows=[(_published(document, r.model, r.arch), _of(rows.get((r.model, r.arch)))) for r in document.rows],
        winners=[
            of_claims.Winner(category=w.category, published=_published(document, w.model, w.arch), modelled=_of(won.get(w.category)))
            for w in document.winners
        ],
        tiers=[_tier(document, tier, rows, machines) for tier in document.tiers],
        cost_per_billion_tokens=[_per_billion(line, rows) for line in document.usd_per_billion_tokens],
        insights=_insights(document, rows),
        breakdowns=[_breakdown(document, b) for b in document.breakdowns],
        scenario=[_option(document, option) for option in document.scenario.options],
        strategy=[
            of_claims.Stage(
                stage=n,
                published_usd=money.text(s.published_usd),
                modelled=_figures(s.row),
                spent_usd=money.text(s.spent_usd),
                decision=s.decision,
            )
            for n, s in enumerate(sections.strategy(document, rows), 1)
        ],
        memory_tips=[
            of_claims.MemoryTip(
                name=t.name,
                before_gib=round(t.before_gib, 2),
                after_gib=round(t.after_gib, 2),
                saved_percent=round(t.saved_percent, 1),
                fits=t.fits,
            )
            for t in sections.memory_tips(example, card)
        ],
        memory_example=refitting.judged_example()[0],
    )


def _figures(row: Row) -> of_claims.Figures:
    e, m = row.estimate, row.machine
    return of_claims.Figures(
        model=row.model,
        arch=row.arch,
        on=f"{m.count} x {m.gpu.name} ({m.provider})",
        loss=round(e.loss.mid, 4),
        hours=e.hours.mid,
        usd=money.text(e.usd.mid),
        tokens=e.config.training.tokens,
        fits=e.fits,
        vocab=e.config.model.vocab,
    )


def _of(row: Row | None) -> of_claims.Figures | None:
    return None if row is None else _figures(row)


def _published(document: Benchmark, model: str, arch: str) -> of_claims.Figures:
    row = next(r for r in document.rows if (r.model, r.arch) == (model, arch))
    return of_claims.Figures(
        model=model,
        arch=arch,
        on=row.hardware or row.machine,
        loss=row.loss,
        hours=row.hours,
        usd=money.text(row.usd),
        tokens=document.size(model).tokens,
        basis="published",
    )


def _tier(document: Benchmark, tier: benchmarks.Tier, rows: Rows, machines: list[Machine]) -> of_claims.Tier:
    low, high = tier.usd_range[0], tier.usd_range[-1]
    inside = [row for row in rows.values() if low <= row.estimate.usd.mid <= high]
    answer = sections.tier_answer(high, machines, ARCHS)
    best = None
    if answer is not None:
        best = of_claims.Figures(
            model=f"{answer.parameters / 1e6:,.0f}M",
            arch=answer.config.model.arch,
            on=f"{answer.machine.count} x {answer.machine.gpu.name} ({answer.machine.provider})",
            loss=round(answer.loss.mid, 4),
            hours=answer.hours.mid,
            usd=money.text(answer.usd.mid),
            tokens=answer.config.training.tokens,
            fits=True,
            vocab=answer.config.model.vocab,
        )
    return of_claims.Tier(
        name=tier.name,
        usd=[money.text(low), money.text(high)],
        published=[_published(document, tier.model, arch) for arch in tier.archs],
        modelled=[_figures(row) for row in sorted(inside, key=_by_loss)],
        best_for_it=best,
    )


def _by_loss(row: Row) -> tuple[int, float]:
    """Return what rows are ordered by: the least loss first, those of the smaller vocabulary by themselves at the end."""
    return -row.estimate.config.model.vocab, row.estimate.loss.mid


def _per_billion(line: benchmarks.CostPerBillion, rows: Rows) -> of_claims.CostPerBillion:
    row = rows.get((line.model, line.arch))
    ours = None if row is None else sections.usd_per_billion_tokens(row)
    return of_claims.CostPerBillion(
        model=line.model,
        arch=line.arch,
        published=money.text(line.usd),
        modelled=None if ours is None else money.text(ours),
        ratio=None if ours is None else round(float(ours / line.usd), 3),
    )


def _insights(document: Benchmark, rows: Rows) -> list[of_claims.Insight]:
    said = {i.arch: i for i in document.insights}
    names = ("loss_better_percent", "loss_worse_percent", "slower_percent", "faster_percent")
    return [
        of_claims.Insight(
            arch=a.arch,
            published={name: list(getattr(said[a.arch], name)) for name in names if getattr(said[a.arch], name)},
            loss_percent=_rounded(a.loss),
            hours_percent=_rounded(a.hours),
            memory_percent=_rounded(a.memory),
            usd_percent=_rounded(a.usd),
            sizes=list(a.sizes),
        )
        for a in sections.insights(document, rows)
    ]


def _rounded(pair: tuple[float, float]) -> list[float]:
    return [round(value, 2) for value in pair]


def _machine(document: Benchmark, model: str, arch: str) -> Machine:
    row = next(r for r in document.rows if (r.model, r.arch) == (model, arch))
    price = document.usd_per_hour(row.machine) or Decimal(0)
    return Machine("runpod", gpus.resolve(row.gpu or "RTX4090"), row.gpus or 1, price, False)


def _breakdown(document: Benchmark, said: benchmarks.Breakdown) -> of_claims.Breakdown:
    machine = _machine(document, said.model, said.arch)
    found = estimate(preset(said.model, said.arch), machine)
    published = {
        "setup": said.setup_minutes / 60,
        **{f"epoch {n}": hours for n, hours in enumerate(said.epoch_hours, 1)},
        "checkpoints": said.checkpointing_minutes / 60,
        "evaluation": said.evaluation_minutes / 60,
        "total": said.total_hours,
        "summed": said.summed_hours,
    }
    parts = {} if found.parts is None else asdict(found.parts)
    return of_claims.Breakdown(
        model=said.model,
        arch=said.arch,
        on=f"{machine.count} x {machine.gpu.name}",
        published={name: round(value, 4) for name, value in published.items()},
        modelled={name: round(value, 4) for name, value in {**parts, "total": found.hours.mid}.items()},
    )


def _option(document: Benchmark, option: Option) -> of_claims.ScenarioOption:
    price = next((p.usd_per_hour for p in document.prices if p.hardware.startswith(option.hardware)), Decimal(0))
    machine = Machine("runpod", gpus.resolve(option.hardware), 1, price, False)
    published = of_claims.Figures(
        model=option.model,
        arch=option.arch,
        on=option.hardware,
        loss=option.loss,
        hours=option.hours,
        usd=money.text(option.usd),
        basis="published",
    )
    try:
        e = estimate(preset(option.model, option.arch), machine)
    except UsageError:
        ours = of_claims.Figures(model=option.model, arch=option.arch, on=option.hardware, fits=False)
    else:
        ours = of_claims.Figures(
            model=option.model,
            arch=option.arch,
            on=f"1 x {machine.gpu.name}",
            loss=round(e.loss.mid, 4) if e.fits else None,
            hours=e.hours.mid if e.fits else None,
            usd=money.text(e.usd.mid) if e.fits else None,
            tokens=e.config.training.tokens,
            fits=e.fits,
            vocab=e.config.model.vocab,
        )
    return of_claims.ScenarioOption(name=option.name, label=option.label, published=published, modelled=ours)

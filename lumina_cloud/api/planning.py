"""Plans: which machines there are at which price, what the planner says of them, and the record of it in the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import cpu_benchmark, probing, probing_here, refitting, teaching
from lumina_cloud.api.documents import of_plans, root
from lumina_cloud.catalog import gpus, prices
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError
from lumina_cloud.ledger import PlanRecord
from lumina_cloud.planner import explain, published, recipes
from lumina_cloud.planner import plan as planner
from lumina_cloud.planner.learning import Lessons
from lumina_cloud.planner.learning import lines as lesson_lines
from lumina_cloud.runs import workloads
from providers import registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from lumina_cloud.api import market
    from lumina_cloud.api.probing import Probe
    from lumina_cloud.api.session import Session
    from lumina_cloud.api.settings import Settings
    from lumina_cloud.planner.estimate import Interval, MoneyInterval
    from lumina_cloud.planner.learning import Kind
    from lumina_cloud.runs.workloads import WorkloadRequest, Workloads
    from providers.contract import OfferQuery

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def short_id(length: int = 4) -> str:
    """Return random characters that are easy to read out and to type."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass(frozen=True)
class MachineFilter:
    """What machines are asked for; None where anything will do."""

    provider: str | None = None
    gpu: str | None = None
    count: int | None = None
    """GPUs in the machine."""

    def narrowed(self, said: MachineFilter) -> MachineFilter:
        """Return what to rent when `said` was typed over a plan's own filter.

        Another provider's machines are other machines, so the plan's GPU is kept only where no provider was named. A GPU that is named
        without a count means one of it: nobody who types `--gpu 4090` asks for a machine of eight.
        """
        if said.gpu is not None:
            return MachineFilter(said.provider or self.provider, said.gpu, said.count or 1)
        if said.provider not in (None, self.provider):
            return said
        return MachineFilter(self.provider, self.gpu, said.count or self.count)


@dataclass(frozen=True)
class Planned:
    """A plan as the planner made it, and as scripts read it."""

    document: of_plans.PlanDocument
    plan: planner.Plan
    workloads: Workloads
    record: PlanRecord
    """For the ledger; see `keep`."""
    lessons: Lessons
    """What finished runs had to say."""


def machines(settings: Settings, wanted: MachineFilter, *, measure: str | None = None) -> list[planner.Machine]:
    """Return the machines that can be planned on, with their prices. Raises UsageError for unknown names.

    What its provider does not rent is there only where that GPU is asked for.

    `measure` names a precision in which this computer's processor is measured, if it is asked for and was not yet.
    """
    if wanted.provider is not None:
        registry.check_name(wanted.provider)
    gpu = None if wanted.gpu is None else gpus.resolve(wanted.gpu).name
    book = prices.load(settings.config_file)
    found = [
        planner.Machine(
            provider=p.provider, gpu=gpus.resolve(p.gpu), count=p.count, usd_per_hour=p.usd_per_hour, interruptible=p.interruptible
        )
        for p in book.prices
        if p.rented or gpu is not None
    ]
    asked_for = wanted.provider == "local" or gpu == gpus.CPU
    found.append(local_machine(settings, measure=measure if asked_for else None))
    if wanted.count is not None and wanted.count < 1:
        raise UsageError(f"--count is {wanted.count}, but must be at least 1", "e.g. --count 2")
    return [m for m in found if wanted.provider in (None, m.provider) and gpu in (None, m.gpu.name) and wanted.count in (None, m.count)]


def _precision_here(built: workloads.Workloads) -> str:
    return cpu_benchmark.precision_here(built.configs[0].training.precision, fixed="precision" in built.fixed)


def local_machine(settings: Settings, *, measure: str | None = None) -> planner.Machine:
    """Return this computer as a machine: its usable cores, what memory is free now, and what was measured of it."""
    cpu = cpu_benchmark.local_cpu(settings.home, measure=measure)
    return planner.Machine(provider="local", gpu=cpu, count=1, usd_per_hour=settings.local_usd_per_hour, interruptible=False)


Look = Callable[["OfferQuery", "str | None"], "market.Market"]
"""Asks the markets: a query, and one provider or all of them."""


def make_plan(
    session: Session,
    request: WorkloadRequest,
    wanted: MachineFilter,
    look: Look | None = None,
    *,
    measure: bool = False,
    only: planner.Machine | None = None,
    taught: bool = True,
    probed: Mapping[Kind, Probe] | None = None,
) -> Planned:
    """Plan, with `look` on live offers; `keep` writes it down. Raises UsageError, DataError, LedgerError.

    With `measure` this computer's processor is measured first, if it is asked for and was not yet: some seconds, once.
    `only` is the one machine to plan on, where that is decided already. With `taught` finished runs refine the estimates, and
    earlier probes; `probed` has just been measured.
    """
    built = workloads.build(request)
    notes: list[str] = []
    if only is not None:
        available = [only]
    elif look is None:
        available = machines(session.settings, wanted, measure=_precision_here(built) if measure else None)
        if not available:
            raise no_price(wanted)
        notes = _book_notes(session.settings, available, session.clock.now().date())
    else:
        available, notes = live_machines(session.settings, wanted, look, built)
    lessons = _lessons(session, built) if taught else Lessons()
    if probed:
        lessons = probing.Probed(lessons, probed)
    result = planner.plan(built.configs, available, built.fixed, lessons)
    document = _document(request, built, result, notes, lessons, named=wanted.gpu is not None)
    record = PlanRecord(
        plan_id=document.plan,
        created_at=session.clock.now(),
        request={**asdict(request), "provider": wanted.provider, "gpu": wanted.gpu, "count": wanted.count},
        result=document.model_dump(mode="json"),
    )
    return Planned(document, result, built, record, lessons)


def _lessons(session: Session, built: Workloads) -> Lessons:
    """Return what finished runs teach, and what probes of these workloads measured. Raises LedgerError."""
    finished = teaching.finished(session.ledger)
    lessons = teaching.lessons(session.ledger, finished)
    since = session.clock.now() - timedelta(seconds=probing.KEPT_SECONDS)
    probes = probing_here.known(session.settings.home, built.configs, built.fixed)
    probes |= teaching.probes(session.ledger, finished, built.configs, since)
    return probing.Probed(lessons, probes) if probes else lessons


def keep(session: Session, planned: Planned) -> None:
    """Write a plan down, so that it can be launched by its id, or as the last one. Raises LedgerError."""
    with session.ledger.transaction() as tx:
        tx.add_plan(planned.record)


def live_machines(settings: Settings, wanted: MachineFilter, look: Look, built: Workloads) -> tuple[list[planner.Machine], list[str]]:
    """Return the machines that the markets offer now, and this computer, with notes on what was seen.

    Raises UsageError for unknown names and when nothing is offered, and what went wrong when no market answered.
    """
    from lumina_cloud.api import market
    from providers.contract import OfferQuery

    name = None if wanted.gpu is None else gpus.resolve(wanted.gpu).name
    if wanted.provider is not None:
        registry.check_name(wanted.provider)
    here = machines(settings, MachineFilter("local", count=wanted.count))
    local = [m for m in here if wanted.provider in (None, "local") and name in (None, m.gpu.name)]
    if wanted.provider == "local" or name == gpus.CPU:
        return local, ["this computer has no market: its price is in config.toml ([local])"]
    disk = market.disk_gb(max(workloads.parameters(config).total for config in built.configs))
    found = look(OfferQuery(gpu=name, count=wanted.count, disk_gb=disk), wanted.provider)
    best = market.cheapest(found)
    if not local and (error := market.silence(found)) is not None:
        raise error
    live = [
        planner.Machine(
            provider=o.provider, gpu=gpus.resolve(o.gpu), count=o.count, usd_per_hour=o.usd_per_hour, interruptible=o.interruptible
        )
        for o in best
    ]
    if not live and not local:
        what = " ".join(part for part in (wanted.gpu, f"at {wanted.provider}" if wanted.provider else None) if part)
        raise UsageError(
            f"no market offers {what or 'anything'} now", "lumina offers shows what there is; without --live the price book is used"
        )
    return [*live, *local], _live_notes(found, disk)


def _book_notes(settings: Settings, available: list[planner.Machine], today: date) -> list[str]:
    """Return from when the price book's prices of these machines are, nothing where none is of the book."""
    keys = {(m.provider, m.gpu.name, m.count, m.interruptible) for m in available if m.provider != "local"}
    known = [p for p in prices.load(settings.config_file).prices if p.key in keys]
    dates = [p.date for p in known]
    seen = sorted(day for day in dates if day is not None)
    if not dates:
        return []
    undated = f" ({len(dates) - len(seen)} without a date)" if seen and len(seen) < len(dates) else ""
    when = f"seen {_days(seen[0], seen[-1], today)}" if seen else "without a date"
    gone = sorted({f"{p.provider} does not rent {p.gpu}" for p in known if not p.rented})
    return [
        f"prices are the price book's, {when}{undated}: --live asks the markets",
        *(f"{what}: that price was published, and nobody can launch at it" for what in gone),
    ]


def _days(first: date, last: date, today: date) -> str:
    """Return a span of days, and how long ago it began."""
    ago = max(0, (today - first).days)
    span = f"on {first}" if first == last else f"from {first} to {last}"
    past = "today" if ago == 0 else f"{ago} day{'s' * (ago > 1)} ago"
    return f"{span}, {past}"


def _live_notes(found: market.Market, disk_gb: int) -> list[str]:
    unknown = sorted({o.gpu for o in found.offers if not o.gpu_known})
    notes = [
        f"prices are live: {len(found.offers)} offers at {found.asked_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"with a disk of {disk_gb} GB and traffic; the cheapest of each kind is planned on"
    ]
    notes += [f"no offers from {s.provider}: {s.error.message}" for s in found.silent]
    if unknown:
        notes.append(f"not planned on, since their speed is not known: {', '.join(unknown[:8])}")
    return notes


def explanation(planned: Planned) -> list[str]:
    """Return the derivation of the recommended row, of the best row where none is, line by line."""
    best = planned.plan.recommendation
    chosen = planned.plan.rows[0] if best is None else best.row
    title = f"{chosen.model} {chosen.arch} on {chosen.machine.count} x {chosen.machine.gpu.name} at {chosen.machine.provider}"
    taught = lesson_lines(planned.lessons, planner.kind_of(chosen.estimate.config, chosen.machine))
    return [title, *explain.plan_lines(chosen), *(taught or ["ledger: no finished run has anything to say of this"])]


def no_price(wanted: MachineFilter) -> UsageError:
    """Return the error for machines that no price is known of."""
    kind = f"{wanted.count} x {wanted.gpu or 'any GPU'}" if wanted.count else wanted.gpu
    what = " ".join(part for part in (kind or "any machine", f"at {wanted.provider}" if wanted.provider else None) if part)
    if wanted.provider == "local":
        hint = "leave out --gpu or --provider to see what there is: local is this computer's CPU"
    else:
        hint = "leave out --gpu or --provider to see what there is, ask the clouds (plan --live), or add one to config.toml ([[prices]])"
    return UsageError(f"no price is known for {what}", hint)


# --- documents -----------------------------------------------------------------------------------------------------------


def _document(
    request: WorkloadRequest, built: Workloads, result: planner.Plan, notes: list[str], lessons: Lessons, *, named: bool
) -> of_plans.PlanDocument:
    best = result.recommendation
    return of_plans.PlanDocument(
        plan=f"p-{short_id(6)}",
        workloads=[workload(config) for config in built.configs],
        rows=[row(r) for r in result.rows],
        recipes=[_recipe(r) for r in recipes.recipes(built.configs, result, built.fixed, lessons)],
        published=[
            of_plans.Published(
                model=p.model,
                arch=p.arch,
                loss=p.loss,
                ppl=p.ppl,
                hours=p.hours,
                vram_gb=p.vram_gb,
                tokens_per_second=p.tokens_per_second,
                usd=money.text(p.usd),
                hardware=p.hardware,
                fails=list(p.fails),
            )
            for p in published.published((request.model,), request.archs)
        ],
        recommendation=None if best is None else _recommended(best),
        refused=list(result.refused),
        misfits=refitting.misfits(request, built, result, lessons, named=named),
        notes=[*notes, *_unmeasured(result), *built.notes, *_judged(result)],
    )


def _unmeasured(result: planner.Plan) -> list[str]:
    """Return a word about this computer's processor where it would do and its speed is that of any with as many cores."""
    here = [r for r in result.rows if r.machine.provider == "local" and r.estimate.fits]
    if not here or any(r.machine.gpu.rates for r in here):
        return []
    return ["this computer's processor has not been measured: its speed is a usual one, and --provider local measures it"]


def _judged(result: planner.Plan) -> list[str]:
    """Return what is to be said of the published memory example where somebody asks for just that: B7 dense on an A100 40GB."""
    asked = any(
        r.model == "b7" and r.arch == "dense" and not r.estimate.fits and r.machine.gpu.name.startswith("A100-40GB") for r in result.rows
    )
    return [refitting.judged_example()[0]] if asked else []


def row(r: planner.Row) -> of_plans.PlanRow:
    """Return one row as scripts read it."""
    e = r.estimate
    return of_plans.PlanRow(
        model=r.model,
        arch=r.arch,
        gpu=r.machine.gpu.name,
        count=r.machine.count,
        provider=r.machine.provider,
        interruptible=r.machine.interruptible,
        usd_per_hour=money.text(r.machine.usd_per_hour),
        fits=e.fits,
        layout=_layout(r),
        basis=e.basis,
        memory_gib=interval(e.memory_gib),
        usable_memory_gib=round(e.usable_memory_gib, 3),
        tokens_per_second=interval(e.tokens_per_second),
        hours=interval(e.hours),
        usd=money_interval(e.usd),
        loss=interval(e.loss),
        memory_upper_gib=round(e.memory_upper_gib, 3),
        hours_by_part={} if e.parts is None else asdict(e.parts),
        usd_by_part={} if e.costs is None else {name: money.text(usd) for name, usd in asdict(e.costs).items()},
        checkpoint_gib=e.checkpoint_gib,
        checkpoint_minutes_best=e.checkpoint_minutes_best,
        front=r.front,
        runs=e.runs,
    )


def _recipe(r: recipes.RecipeRow) -> of_plans.RecipeRow:
    e = r.estimate
    return of_plans.RecipeRow(
        arch=r.arch,
        recipe=r.recipe,
        mod_every=r.mod_every,
        mod_capacity=r.mod_capacity,
        flops_saved=round(r.flops_saved, 4),
        gpu=r.machine.gpu.name,
        count=r.machine.count,
        provider=r.machine.provider,
        tokens_per_second=interval(e.tokens_per_second),
        hours=interval(e.hours),
        usd=money_interval(e.usd),
        loss=interval(e.loss),
    )


def _layout(r: planner.Row) -> of_plans.Layout:
    layout = r.estimate.config.layout
    return of_plans.Layout(
        micro_batch=layout.micro_batch,
        grad_accum=layout.grad_accum,
        zero_stage=layout.zero_stage,
        checkpointing=layout.checkpointing,
        offload=layout.offload,
        expert_parallel=layout.expert_parallel,
    )


def _recommended(best: planner.Recommendation) -> of_plans.Recommended:
    r = best.row
    return of_plans.Recommended(
        model=r.model,
        arch=r.arch,
        gpu=r.machine.gpu.name,
        count=r.machine.count,
        provider=r.machine.provider,
        interruptible=r.machine.interruptible,
        layout=_layout(r),
        usd=money_interval(r.estimate.usd),
        hours=interval(r.estimate.hours),
        reason=best.reason,
    )


def workload(config: Any) -> of_plans.Workload:
    """Return what is to be computed as scripts read it."""
    counted = workloads.parameters(config)
    training = config.training
    return of_plans.Workload(
        model=config.preset,
        arch=config.model.arch,
        parameters_total=counted.total,
        parameters_active=counted.active,
        tokens=training.tokens,
        unique_tokens=training.unique_tokens,
        epochs=training.epochs,
        seq_len=training.seq_len,
        global_batch_tokens=training.global_batch_tokens,
        steps=training.steps,
        data=config.data.source,
    )


def interval(value: Interval) -> root.Range:
    """Return an estimate as scripts read it."""
    return root.Range(low=value.low, mid=value.mid, high=value.high)


def money_interval(value: MoneyInterval) -> root.MoneyRange:
    """Return an estimate of money as scripts read it."""
    return root.MoneyRange(low=money.text(value.low), mid=money.text(value.mid), high=money.text(value.high))

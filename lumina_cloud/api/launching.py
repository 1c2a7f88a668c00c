"""From a request to a run: plan, refuse what must be refused, and write the intent down. Nothing is rented here."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import budgets, market, planning
from lumina_cloud.api.documents import of_plans
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.errors import BadReply, NoCapacity, ProviderDown, RateLimited, RefusedError, UsageError
from lumina_cloud.ledger import RunRecord
from lumina_cloud.planner import plan as planner
from lumina_cloud.runs import caps, keeping, machines, offers, workloads
from lumina_cloud.runs import terms as run_terms
from lumina_cloud.runs.drift import MEASURES, ON_DRIFT, OnDrift
from lumina_cloud.runs.states import RESUMABLE, next_run_state
from lumina_cloud.runs.terms import Terms
from lumina_cloud.runs.workloads import WorkloadRequest
from providers import registry
from providers.contract import OfferQuery

_MARKET_TRIES = 3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from lumina_cloud.api.planning import MachineFilter, Planned
    from lumina_cloud.api.session import Session
    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger, PlanRecord
    from lumina_cloud.ledger.transaction import Transaction


__all__ = ["Limits", "Prepared", "Terms"]


MAX_NAME = 80

_PURPOSES = {"--project": "--project vision", "--label": "--label team=vision"}

ASKED_FOR = "run.asked_for"
"""The event that keeps which intent a run was begun for."""


@dataclass(frozen=True)
class Limits:
    """The most that the user wants to spend; None where nothing was said."""

    max_cost: Decimal | None = None
    max_hours: float | None = None
    ceiling: Decimal | None = None
    """Of a probe: what its cap is at most where nothing was said."""


@dataclass(frozen=True)
class PriceChange:
    """A price that changed since a plan was made, dollars."""

    what: str
    planned: Decimal
    now: Decimal

    @property
    def percent(self) -> float:
        """By how much it rose; negative where it fell."""
        return round(100 * float(self.now / self.planned - 1), 2) if self.planned else 0.0

    @property
    def text(self) -> str:
        """Say it in one line."""
        return f"{self.what}: {money.show(self.planned)} when it was planned, {money.show(self.now)} now ({self.percent:+.1f} %)"


@dataclass(frozen=True)
class Purpose:
    """What a run's money is for, as costs can be shown by it."""

    project: str = ""
    labels: tuple[str, ...] = ()
    on_drift: OnDrift = "tell"
    """What happens when the run goes beyond its plan."""


@dataclass(frozen=True)
class Prepared:
    """A launch that passed every check: what would be rented, and the most it could cost."""

    planned: Planned
    row: planner.Row
    cap: caps.Cap
    purpose: Purpose = Purpose()
    price_changes: tuple[PriceChange, ...] = ()
    """What costs another sum than when the plan was made."""
    terms: Terms = field(default_factory=Terms)
    boot_seconds: float = 0.0
    """How long the machine may take to come up before it is given back."""

    def as_document(self) -> of_plans.DryRun:
        """Return it as `--dry-run --json` prints it."""
        config = self.row.estimate.config
        return of_plans.DryRun(
            plan=self.planned.document.plan,
            row=planning.row(self.row),
            workload=planning.workload(config),
            usd_cap=money.text(self.cap.usd),
            hours_cap=self.cap.seconds / 3600,
            config=asdict(config),
            price_changes=[
                of_plans.PriceChange(what=c.what, planned=money.text(c.planned), now=money.text(c.now), percent=c.percent)
                for c in self.price_changes
            ],
            on_drift=self.purpose.on_drift,
            kept=self._kept(),
            never_up=self._never_up(),
        )

    def _never_up(self) -> of_plans.NeverUp | None:
        machine = self.row.machine
        if machine.provider == "local":
            return None
        return of_plans.NeverUp(seconds=self.boot_seconds, usd=money.text(money.for_hours(machine.usd_per_hour, self.boot_seconds / 3600)))

    def _kept(self) -> of_plans.Kept | None:
        config = self.row.estimate.config
        if self.row.machine.provider == "local" or config.training.measure_seconds:
            return None
        parameters = workloads.parameters(config).total
        made = keeping.decide(parameters, checkpoint_minutes=config.training.checkpoint_minutes, store=self.terms.store)
        return of_plans.Kept(
            where=made.where,
            checkpoint_gb=made.checkpoint_bytes / 1e9,
            checkpoint_seconds=made.checkpoint_seconds,
            interval_seconds=made.interval_seconds,
            results_gb=made.home_bytes / 1e9,
            results_seconds=made.home_seconds,
            disk_gb=self.terms.disk_gb,
            secrets=list(self.terms.secrets),
        )


def terms_from(lease: str | None, store: str | None, secrets: list[str], *, accept_unguarded: bool, interruptible: bool) -> Terms:
    """Return the terms as they were typed. Raises UsageError for a span, a store, or a secret that is not there."""
    for name in secrets:
        if not name.isidentifier() or not name.isascii():
            raise UsageError(f"--secret takes the name of an environment variable, not {name!r}", "e.g. --secret HF_TOKEN")
        if not os.environ.get(name):
            raise UsageError(f"--secret {name}: there is no such variable, or it is empty", f"export {name}=...")
    if store is not None and "://" not in store:
        raise UsageError(f"--store takes the URL of an object storage, not {store!r}", "e.g. --store s3://bucket/path")
    seconds = run_terms.LEASE_SECONDS if lease is None else run_terms.parse_span("--lease", lease)
    return Terms(lease_seconds=seconds, store=store, secrets=tuple(secrets), accept_unguarded=accept_unguarded, interruptible=interruptible)


def request_from_plan(ledger: Ledger, plan_id: str | None) -> tuple[WorkloadRequest, MachineFilter]:
    """Return what the last plan, or the one of that id, asked for. Raises UsageError when there is none."""
    record = ledger.last_plan() if plan_id is None else ledger.plan(plan_id)
    if record is None and plan_id is not None:
        raise UsageError(f"no plan {plan_id!r}", "lumina plan MODEL makes one; where none is named, the last one is taken")
    if record is None:
        raise UsageError("nothing has been planned yet", "type first: lumina plan debug --arch mod\nthen:       lumina launch")
    return _from_record(record)


def _from_record(record: PlanRecord) -> tuple[WorkloadRequest, MachineFilter]:
    kept: dict[str, Any] = dict(record.request)
    wanted = planning.MachineFilter(provider=kept.pop("provider", None), gpu=kept.pop("gpu", None), count=kept.pop("count", None))
    archs = tuple(kept["archs"])
    best = record.result.get("recommendation")
    if len(archs) > 1:
        # A plan over several architectures is launched with the one that it recommended.
        archs = (best["arch"],) if best else archs[:1]
    request = WorkloadRequest(**{**kept, "archs": archs, "settings": tuple((k, v) for k, v in kept["settings"])})
    return request, wanted


def purpose_of(project: str | None, labels: Sequence[str], on_drift: str = "tell") -> Purpose:
    """Return what `--project`, `--label` and `--on-drift` mean. Raises UsageError for text that cannot stand in a table."""
    if on_drift not in ON_DRIFT:
        raise UsageError(f"--on-drift is {untrusted.line(on_drift, 40)!r}", f"take {' or '.join(ON_DRIFT)}")
    for option, text in (("--project", project), *(("--label", label) for label in labels)):
        if text is not None and (not 0 < len(text) <= MAX_NAME or text != untrusted.line(text).strip()):
            raise UsageError(
                f"{option} is {text!r}, but must be one line of 1 to {MAX_NAME} printable characters", f"e.g. {_PURPOSES[option]}"
            )
    return Purpose(project or "", tuple(dict.fromkeys(labels)), "stop" if on_drift == "stop" else "tell")


def prepare(
    session: Session,
    request: WorkloadRequest,
    wanted: MachineFilter,
    limits: Limits,
    *,
    look: planning.Look,
    purpose: Purpose | None = None,
    terms: Terms | None = None,
) -> Prepared:
    """Plan the request and pass every check that can be made before renting.

    Raises UsageError, DataError, CredentialsError, or RefusedError when it does not fit or could exceed its cap.
    """
    if limits.max_cost is not None and limits.max_cost <= 0:
        raise UsageError(f"--max-cost is {money.text(limits.max_cost)}, but must be above 0", "e.g. --max-cost 5")
    if limits.max_hours is not None and not 0 < limits.max_hours < 1e6:
        raise UsageError(f"--max-hours is {limits.max_hours}, but must be above 0", "e.g. --max-hours 8")
    if wanted.provider is not None:
        registry.check_name(wanted.provider)
    terms = terms or Terms()
    planned = _plan(session, request, wanted, terms, look)
    row = _saved_often_enough(_chosen(planned, wanted), request, terms.store)
    provider = session.provider(row.machine.provider)
    provider.check()
    if provider.name == "local":
        _check_local_trainer(planned)
    usd, grace = row.estimate.usd, caps.grace_seconds(provider.name)
    cap = caps.cap_from(
        max_cost=limits.max_cost, max_hours=limits.max_hours, usd_per_hour=row.machine.usd_per_hour, plan_high=usd.high, grace=grace
    )
    if limits.ceiling is not None and limits.max_cost is None and limits.max_hours is None and cap.usd > limits.ceiling:
        cap = caps.Cap(limits.ceiling, caps.seconds_for(limits.ceiling, row.machine.usd_per_hour))
    # A probe that its cap ends has cost cents, and most of its high is a machine that takes its time to come up.
    caps.refuse_beyond(cap, low=usd.low, mid=usd.mid, high=usd.high, by_mid=limits.ceiling is not None)
    caps.seconds_left_on_box(cap.usd, money.usd(0), row.machine.usd_per_hour, grace)
    if not machines.is_guarded(provider) and not terms.accept_unguarded:
        raise unguarded(provider.name, row.machine.usd_per_hour)
    config = row.estimate.config
    parameters = workloads.parameters(config).total
    if provider.name != "local" and not config.training.measure_seconds:
        keeping.decide(parameters, checkpoint_minutes=config.training.checkpoint_minutes, store=terms.store)
    disk = market.disk_gb(parameters)
    terms = replace(terms, disk_gb=disk, boot_seconds=session.settings.boot_seconds)
    boot = machines.boot_seconds(provider.name, row.machine.count, terms, rehearsal=session.settings.sandbox)
    made = Prepared(planned, row, cap, purpose or Purpose(), terms=terms, boot_seconds=boot)
    budgets.refuse_beyond(budgets.Known.of_ledger(session.ledger), made.purpose.project, cap.usd, session.clock.now())
    return made


def unguarded(provider: str, usd_per_hour: Decimal) -> RefusedError:
    """Return the refusal of a machine that cannot end itself, with the worst that it could cost."""
    worst = money.show(money.for_hours(usd_per_hour, 24.0))
    return RefusedError(
        f"a machine of {provider} cannot end itself, and is billed on even when it is switched off: "
        f"should this computer die, it costs {worst} a day until you end it",
        "accept that with --accept-unguarded, or take another provider",
    )


def _plan(session: Session, request: WorkloadRequest, wanted: MachineFilter, terms: Terms, look: planning.Look) -> Planned:
    """Plan on what is offered now: a price book's price cannot be rented. Raises UsageError, CredentialsError, ProviderError."""
    provider = wanted.provider
    if provider is None:
        if not planning.machines(session.settings, wanted):
            raise planning.no_price(wanted)
        provider = _chosen(planned := planning.make_plan(session, request, wanted), wanted).machine.provider
        if provider == "local":
            return planned
    if provider == "local":
        return planning.make_plan(session, request, wanted)
    kind = replace(wanted, provider=provider)
    if wanted.provider is not None and planning.machines(session.settings, kind):
        # What cannot fit is refused before a key is asked for; a provider that was chosen here has a machine that fits.
        _chosen(planning.make_plan(session, request, kind), kind)

    def plan() -> Planned:
        session.provider(provider).check()
        return planning.make_plan(session, request, kind, _of_kind(look, interruptible=terms.interruptible))

    return _patiently(session.clock, plan)


def _patiently(clock: Clock, action: Callable[[], Planned]) -> Planned:
    """Ask a market again that answers with nonsense, or not at all. Raises its last error."""
    for attempt in range(_MARKET_TRIES):
        try:
            return action()
        except (BadReply, ProviderDown, RateLimited) as error:
            if attempt + 1 == _MARKET_TRIES:
                raise
            told = error.retry_after if isinstance(error, RateLimited) else None
            clock.sleep(min(15.0, told or 1.5 * 2**attempt))
    raise AssertionError("unreachable")


def _of_kind(look: planning.Look, *, interruptible: bool) -> planning.Look:
    def ask(query: OfferQuery, provider: str | None) -> market.Market:
        return look(replace(query, interruptible=interruptible), provider)

    return ask


def _chosen(planned: Planned, wanted: MachineFilter) -> planner.Row:
    if planned.plan.recommendation is not None:
        return planned.plan.recommendation.row
    first = planned.plan.rows[0]
    e = first.estimate
    largest = planner.largest_that_fits(first.arch, first.machine, planned.lessons)
    if wanted.gpu is None and wanted.provider is None:
        hint = "more memory, or fewer parameters: lumina plan shows what each machine could hold"
    elif largest is None:
        hint = "no preset fits it: take a larger GPU"
    else:
        machine = first.machine
        several = f" --count {machine.count}" if machine.count > 1 else ""
        where = f" --provider {wanted.provider}" if wanted.provider else ""
        kind = "" if machine.provider == "local" else f" --gpu {machine.gpu.name}{several}"
        hint = f"the largest preset that fits it is {largest}: lumina launch {largest} --arch {first.arch}{where}{kind}"
        if machine.provider != "local":
            hint += "\na machine of several GPUs: --count 8"
    raise RefusedError(
        f"{first.model} {first.arch} does not fit {first.machine.count} x {first.machine.gpu.name}: "
        f"{e.memory_upper_gib:.1f} GiB of {e.usable_memory_gib:.1f}",
        hint,
    )


def _saved_often_enough(row: planner.Row, request: WorkloadRequest, store: str | None) -> planner.Row:
    """Return the row with the checkpoint interval that loses least on a machine that is taken away at times, where none was asked for."""
    best = row.estimate.checkpoint_minutes_best
    if best is None or not row.machine.interruptible or "checkpoint_minutes" in dict(request.settings):
        return row
    config = row.estimate.config
    usual, parameters = config.training.checkpoint_minutes, workloads.parameters(config).total
    minutes = keeping.minutes_between(parameters, best, usual, store)
    config = replace(config, training=replace(config.training, checkpoint_minutes=minutes))
    return replace(row, estimate=replace(row.estimate, config=config))


def _check_local_trainer(planned: Planned) -> None:
    missing = [name for name in ("torch", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(
            f"training on this computer needs {' and '.join(missing)}, not installed for {sys.executable}",
            "pip install 'lumina-cloud[trainer]'",
        )
    source = planned.workloads.configs[0].data.source
    if source.startswith("hf:") and importlib.util.find_spec("datasets") is None:
        raise RefusedError(
            f"streaming {source} needs the package datasets, which is not installed here",
            "pip install 'lumina-cloud[hf]', or give your own text with --data PATH",
        )


def begin(session: Session, prepared: Prepared, intent: str = "") -> RunRecord:
    """Write the run down as `provisioning`: from here on the controller does the rest. Raises LedgerError.

    An `intent` is begun once: asked for again, it is the run that there is.
    """
    row, machine = prepared.row, prepared.row.machine
    config = row.estimate.config
    names = iter(lambda: f"{row.model}-{row.arch}-{planning.short_id()}", "")
    run_id = next(name for name in names if session.ledger.run(name) is None)
    source = config.data.source
    run = RunRecord(
        run_id=run_id,
        created_at=session.clock.now(),
        model=row.model,
        arch=row.arch,
        state="planned",
        reason="",
        config_json=config.to_json(),
        # A probe's plan is kept nowhere: launched again, as the last plan is, it would be a run that keeps nothing.
        plan_id=None if config.training.measure_seconds else prepared.planned.document.plan,
        provider=machine.provider,
        gpu=machine.gpu.name,
        count=machine.count,
        usd_per_hour=machine.usd_per_hour,
        planned={**planned_figures(row), "on_drift": prepared.purpose.on_drift, MEASURES: config.training.measure_seconds > 0},
        usd_cap=prepared.cap.usd,
        seconds_cap=prepared.cap.seconds,
        data_path=source if Path(source).is_absolute() else None,
        folder=str(session.settings.runs_folder / run_id),
        started_at=None,
        ended_at=None,
        stop_requested_at=None,
        progress={},
        result={},
        project=prepared.purpose.project,
        labels=list(prepared.purpose.labels),
    )
    return write_down(session.ledger, run, prepared.terms, intent)


def begun_for(ledger: Ledger, intent: str) -> RunRecord | None:
    """Return the run that an intent has begun, None where there is none yet."""
    with ledger.transaction() as tx:
        return _begun_for(tx, intent)


def _begun_for(tx: Transaction, intent: str) -> RunRecord | None:
    # What is begun for no intent in particular is always another run.
    found = next((event for event in tx.events_of(ASKED_FOR) if event.data.get("intent") == intent), None) if intent else None
    return None if found is None or found.run_id is None else tx.run(found.run_id)


def write_down(ledger: Ledger, run: RunRecord, terms: Terms, intent: str = "") -> RunRecord:
    """Keep a planned run as one that is launched. Raises RefusedError when it could exceed a budget, LedgerError."""
    with ledger.transaction() as tx:
        # Asked here, where nobody else can write: a form that is sent twice at once rents once.
        begun = _begun_for(tx, intent)
        if begun is not None:
            return begun
        # Asked again where nobody else can write: of two launches at once only those that fit the budget begin.
        budgets.refuse_beyond(budgets.Known.of_transaction(tx, run.created_at), run.project, run.usd_cap, run.created_at)
        tx.add_run(run)
        tx.update_run(run.run_id, state=next_run_state("planned", "launch"))
        tx.add_event("run.launched", run_id=run.run_id, plan=run.plan_id, usd_cap=money.text(run.usd_cap))
        if intent:
            tx.add_event(ASKED_FOR, run_id=run.run_id, intent=intent)
        run_terms.keep(tx, run.run_id, terms)
    return replace(run, state="provisioning")


def planned_figures(row: planner.Row) -> dict[str, Any]:
    """Return what a run keeps of its plan's row: ranges by figure, and what physics alone says."""
    document = planning.row(row)
    return {
        "seconds": {k: v * 3600 for k, v in document.hours.model_dump().items()},
        "usd": document.usd.model_dump(),
        "peak_memory_gib": planning.interval(row.estimate.reported_gib).model_dump(),
        "tokens_per_second": document.tokens_per_second.model_dump(),
        "loss": document.loss.model_dump(),
        # What the ledger learns from: reality against the model alone, not against what it had learned before.
        "modelled": dict(row.estimate.modelled),
    }


def resumed_cap(run: RunRecord, limits: Limits, spent: Decimal) -> caps.Cap:
    """Return the cap of a run that is taken up again.

    Raises UsageError when its state does not allow that, RefusedError when its cap is used up.
    """
    if run.state not in RESUMABLE:
        raise UsageError(f"run {run.run_id} is {run.state}: only a failed or stopped run can be resumed", f"lumina results {run.run_id}")
    cap = run.usd_cap
    if limits.max_cost is not None or limits.max_hours is not None:
        cap = caps.cap_from(max_cost=limits.max_cost, max_hours=limits.max_hours, usd_per_hour=run.usd_per_hour, plan_high=run.usd_cap).usd
    caps.seconds_left_on_box(cap, spent, run.usd_per_hour, caps.grace_seconds(run.provider))
    return caps.Cap(cap, caps.seconds_for(cap, run.usd_per_hour))


def at_todays_price(session: Session, run: RunRecord) -> RunRecord:
    """Return the run with what its kind of machine costs now. Raises NoCapacity when there is none."""
    of_run = run_terms.of(session.ledger, run.run_id)
    kind = None if run.provider == "local" else of_run.interruptible
    asked = session.provider(run.provider).offers(OfferQuery(gpu=run.gpu, count=run.count, disk_gb=of_run.disk_gb, interruptible=kind))
    offered = offers.sound(session.ledger, session.clock.now(), asked)
    if not offered:
        raise NoCapacity(f"{run.provider} offers no {run.count} x {run.gpu} now", "try again later: the run and its checkpoint are kept")
    return replace(run, usd_per_hour=min(offer.usd_per_hour for offer in offered))


def resume(session: Session, run: RunRecord, limits: Limits, spent: Decimal) -> None:
    """Take up a failed or stopped run again, at its `usd_per_hour`. Raises UsageError, RefusedError, LedgerError."""
    cap = resumed_cap(run, limits, spent)
    state = next_run_state(run.state, "resume")
    now = session.clock.now()
    with session.ledger.transaction() as tx:
        # It promises again what it may still cost; what it has cost is spent already.
        budgets.refuse_beyond(budgets.Known.of_transaction(tx, now), run.project, max(caps.ZERO, cap.usd - spent), now)
        tx.update_run(
            run.run_id,
            state=state,
            reason="",
            ended_at=None,
            stop_requested_at=None,
            usd_per_hour=run.usd_per_hour,
            usd_cap=cap.usd,
            seconds_cap=cap.seconds,
            progress={},
        )
        tx.add_event("run.resumed", run_id=run.run_id, usd_cap=money.text(cap.usd))

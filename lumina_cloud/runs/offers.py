"""Which offer a run rents next: what its plan said, at about its price, on no machine that failed before.

A run on interruptible machines goes on on an on-demand one when its deadline leaves no time for another interruption and its cap pays
for that.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import trainer.config
from lumina_cloud.core import money
from lumina_cloud.runs import failover, machines, remembered
from providers.contract import OfferQuery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lumina_cloud.ledger import Ledger, RentalRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.terms import Terms
    from providers.contract import Offer

PRICE_SLACK = Decimal("1.10")
"""Prices move between a plan and a create. One that moved further is another offer."""


def choose(context: Context, run: RunRecord, of_run: Terms) -> Offer | None:
    """Return the offer of least expected cost for a run's next machine, None when there is none. Raises ProviderError."""
    if of_run.interruptible and run.provider != "local":
        sure = _sure(context, run, of_run)
        if sure is not None:
            context.reporter.said(
                run.run_id,
                f"its deadline leaves no time for another interruption: it goes on on demand, at {money.show(sure.usd_per_hour)} an hour",
            )
            return sure
    most = run.usd_per_hour * (1 if run.provider == "local" else PRICE_SLACK)
    return _best(context, run, of_run, _fitting(context, _asked(context, run, of_run, interruptible=of_run.interruptible), most))


def again(context: Context, run: RunRecord, of_run: Terms, rental: RentalRecord) -> Offer | None:
    """Return the offer that a rental was intended on, or another of its kind that is as cheap, None when there is none."""
    fitting = _fitting(context, _asked(context, run, of_run, interruptible=rental.interruptible), rental.usd_per_hour)
    return _best(context, run, of_run, [o for o in fitting if o.offer_id == rental.offer_id] or fitting)


def sound(ledger: Ledger, now: datetime, offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers of machines that did not fail before, on hosts that are up most of the time or say nothing of it."""
    bad = remembered.bad_machines(ledger, now)
    return [o for o in offers if (o.provider, o.machine_id) not in bad and failover.is_reliable(o)]


def is_dearer(rental: RentalRecord, usd_per_hour: Decimal) -> bool:
    """Whether a machine that was just rented costs more than its offer said, by more than prices move meanwhile."""
    return rental.provider != "local" and usd_per_hour > rental.usd_per_hour * PRICE_SLACK


def _sure(context: Context, run: RunRecord, of_run: Terms) -> Offer | None:
    """Return an on-demand offer where the run's deadline demands one and its cap pays for the rest of the work on it."""
    config = trainer.config.from_json(run.config_json).training
    standing = failover.standing(run, context.ledger.events(run.run_id), steps=config.tokens // config.global_batch_tokens)
    if not failover.deadline_demands(standing, context.clock.now(), interval_seconds=config.checkpoint_minutes * 60):
        return None
    most = failover.affordable(run.usd_cap - context.ledger.spent(run.run_id), standing, run.provider)
    return _best(context, run, of_run, _fitting(context, _asked(context, run, of_run, interruptible=False), most))


def _asked(context: Context, run: RunRecord, of_run: Terms, *, interruptible: bool) -> Sequence[Offer]:
    kind = interruptible if run.provider != "local" else None
    return context.connect(run.provider).offers(OfferQuery(gpu=run.gpu, count=run.count, disk_gb=of_run.disk_gb, interruptible=kind))


def _fitting(context: Context, offers: Sequence[Offer], most: Decimal) -> list[Offer]:
    return [o for o in sound(context.ledger, context.clock.now(), offers) if o.usd_per_hour <= most]


def _best(context: Context, run: RunRecord, of_run: Terms, fitting: Sequence[Offer]) -> Offer | None:
    failed = {r.offer_id for r in context.ledger.rentals(run.run_id) if r.ended_at is not None and r.training_at is None}
    hours = float(run.planned.get("seconds", {}).get("mid", 3600.0)) / 3600
    boot_seconds = machines.boot_seconds(run.provider, run.count, of_run, rehearsal=context.machines.rehearsal)
    return failover.choose(fitting, hours, failed, boot_hours=boot_seconds / 3600)

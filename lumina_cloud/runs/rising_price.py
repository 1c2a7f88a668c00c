"""A price that rises under a machine at work: from then on every limit is reckoned by it.

The cap on money stands, so the cap on time falls: what is spent and what is to come count at the new price alike, which ends a run rather
early than late. The machine is told as of any limit that changes, and ends in good order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.core import money
from lumina_cloud.runs import extending

if TYPE_CHECKING:
    from decimal import Decimal

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.runs.context import Context
    from providers.contract import Instance

WORKING = ("preparing", "training")


def risen(run: RunRecord, rental: RentalRecord | None, instance: Instance | None) -> Decimal | None:
    """Return what a machine at work costs an hour now, where that is more than was known. One that boots may still be given back."""
    if rental is None or instance is None or run.provider == "local" or run.state not in WORKING or rental.state != "ready":
        return None
    price = instance.usd_per_hour.quantize(1 / money.MICROS)
    return price if instance.state == "running" and price > rental.usd_per_hour else None


def take_down(context: Context, run: RunRecord, rental: RentalRecord, usd_per_hour: Decimal) -> None:
    """Write the new price down, which leaves the machine behind with its limits, and say so."""
    with context.ledger.transaction() as tx:
        tx.update_rental(rental.rental_id, usd_per_hour=usd_per_hour)
        was, now = money.text(rental.usd_per_hour), money.text(usd_per_hour)
        tx.add_event(extending.PRICE_ROSE, run_id=run.run_id, rental_id=rental.rental_id, usd_per_hour=now, usd_per_hour_was=was)
    context.reporter.said(
        run.run_id,
        f"{rental.provider} asks {money.show(usd_per_hour)} an hour now, and asked {money.show(rental.usd_per_hour)}: "
        f"it ends sooner, within its cap of {money.show(run.usd_cap)}",
    )

"""A price that rises under a machine at work shortens its time, and the machine is told: the cap on money stands."""

from dataclasses import replace
from decimal import Decimal

import pytest

from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import caps, extending, rising_price
from providers.contract import Instance
from tests.ledger.conftest import NOW, a_rental, a_run
from tests.runs.test_extending import Still

RUN = a_run("r", provider="vastai", usd_cap=Decimal(2), usd_per_hour=Decimal(1), seconds_cap=7200.0, state="training")
RENTAL = a_rental("r", 1, usd_per_hour=Decimal(1), intended_at=NOW, state="ready", ended_at=None, instance_id="i-1")
SHOWN = Instance("i-1", "t", "running", Decimal("1.5"), NOW, ended_at=None, address=None)


class Context:
    """A ledger and a reporter: what taking a price down needs."""

    def __init__(self, ledger):
        self.ledger, self.told = ledger, []
        self.reporter = self

    def said(self, _run_id, text):
        self.told.append(text)


@pytest.mark.parametrize(
    ("run", "rental", "instance"),
    [
        (RUN, RENTAL, replace(SHOWN, usd_per_hour=Decimal(1))),
        (RUN, RENTAL, replace(SHOWN, usd_per_hour=Decimal("0.5"))),
        (RUN, RENTAL, replace(SHOWN, state="stopped")),
        (RUN, RENTAL, None),
        (RUN, None, SHOWN),
        (RUN, replace(RENTAL, state="booting"), SHOWN),
        (replace(RUN, state="finishing"), RENTAL, SHOWN),
        (replace(RUN, provider="local"), RENTAL, SHOWN),
    ],
)
def test_nothing_rises_where_no_machine_at_work_costs_more(run, rental, instance):
    assert rising_price.risen(run, rental, instance) is None


def test_a_risen_price_is_written_down_once_and_leaves_the_machine_behind_with_its_limits(tmp_path):
    ledger = Ledger.open(tmp_path, Still())
    with ledger.transaction() as tx:
        tx.add_run(RUN)
        tx.add_rental(RENTAL)
        tx.add_event(extending.STARTED, run_id="r", rental_id="r-1", limits=0)
    assert rising_price.risen(RUN, RENTAL, SHOWN) == Decimal("1.5")
    context = Context(ledger)
    rising_price.take_down(context, RUN, RENTAL, Decimal("1.5"))
    (after,) = ledger.rentals("r")
    assert after.usd_per_hour == Decimal("1.5")
    assert rising_price.risen(RUN, after, SHOWN) is None, "it is told once"
    assert extending.is_behind(ledger.events("r"), "r-1")
    before, now = (caps.longest_seconds(RUN.seconds_cap, RUN.usd_cap, Decimal(0), r.usd_per_hour) for r in (RENTAL, after))
    assert now * 1.5 == pytest.approx(before)
    assert "$1.50 an hour now" in context.told[0]
    ledger.close()

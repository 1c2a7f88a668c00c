"""What a machine is told of its limits: it ends in good order before its cap is over, and not after."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.errors import RefusedError
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import caps, observing, shipping
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run
from tests.runs.test_extending import Still

RUN = a_run("r", provider="vastai", usd_cap=Decimal(2), usd_per_hour=Decimal(2), seconds_cap=3600.0, state="preparing")
CHEAPER = a_rental("r", 2, provider="vastai", usd_per_hour=Decimal(1), intended_at=NOW, state="ready")


class Later(Still):
    """A clock that stands some seconds after NOW."""

    def __init__(self, seconds):
        self.at = NOW + timedelta(seconds=seconds)

    def now(self):
        return self.at


class Context:
    """A ledger and a clock."""

    def __init__(self, ledger, seconds):
        self.ledger, self.clock = ledger, Later(seconds)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path, Still())
    with opened.transaction() as tx:
        tx.add_run(RUN)
        tx.add_rental(a_rental("r", 1, provider="vastai", state="ended", ended_at=NOW))
        tx.add_rental(CHEAPER)
        tx.put_charge(replace(a_charge("r", usd="0.30"), provider="vastai"))
    yield opened
    opened.close()


@pytest.mark.parametrize("passed", [0.0, 240.0, 3000.0])
@pytest.mark.parametrize("price", ["1", "2", "3"])
def test_training_and_its_end_fit_into_what_the_machine_may_live(ledger, passed, price):
    """On a cheaper machine than the run was planned for time is over before money is."""
    rental, context = replace(CHEAPER, usd_per_hour=Decimal(price)), Context(ledger, passed)
    allowed = observing.allowed_seconds(context, RUN, rental)
    try:
        seconds = shipping._seconds_left(context, RUN, rental)
    except RefusedError:
        assert passed + caps.grace_seconds("vastai") + caps.LEAST_SECONDS > allowed - caps.LEAST_SECONDS
        return
    assert passed + seconds + caps.grace_seconds("vastai") <= allowed + 0.001

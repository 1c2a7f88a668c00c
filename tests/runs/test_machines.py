"""What a machine is told at its creation, and how long its first contact waits for a host key."""

from datetime import timedelta
from decimal import Decimal

import pytest

from lumina_cloud.core.errors import BadReply, Unreachable
from lumina_cloud.remote.host_keys import Pins
from lumina_cloud.remote.ssh_key import Identity
from lumina_cloud.runs import machines
from lumina_cloud.runs.terms import Terms
from providers.contract import Instance, Offer
from tests.ledger.conftest import NOW, a_rental

RENTAL = a_rental("r", provider="there", usd_per_hour=Decimal(1))
HERE = Instance("i-1", RENTAL.tag, "running", Decimal(1), NOW, None, None)


class Clock:
    """Stands at a moment."""

    seconds = 0.0

    def now(self):
        return NOW

    def monotonic(self):
        return self.seconds


class There:
    """A provider that ends machines by itself, by its own clock, and whose boot log is no log."""

    name = "there"

    def __init__(self, ahead):
        self.ahead, self.told = ahead, None

    def clock_skew(self):
        return self.ahead

    def create_until(self, offer, spec, tag, ends_at):
        self.told = ends_at
        return HERE

    def boot_log(self, instance_id):
        raise BadReply("a web page")


@pytest.fixture
def made(tmp_path):
    return machines.Machines(
        home=tmp_path, pins=Pins(tmp_path / "pins"), identity=lambda: Identity("ssh-ed25519 AAAA me", None), clock=Clock()
    )


@pytest.mark.pain(6)
@pytest.mark.parametrize("ahead", [None, 0.0, 86_400.0, -86_400.0])
def test_a_providers_own_deadline_is_the_caps_end_by_the_providers_clock(made, ahead):
    provider = There(ahead)
    made.create(provider, Offer("there", "o", "RTX4090", 1, Decimal(1), False, "x"), RENTAL, Terms(), 600.0)
    assert provider.told == NOW - timedelta(seconds=ahead or 0.0) + timedelta(seconds=600)


def test_a_boot_log_that_is_none_keeps_nobody_out_for_longer_than_one_that_is_late(made):
    with pytest.raises(Unreachable):
        made._told_key(There(0.0), HERE, RENTAL)
    made.clock.seconds = machines.TELL_SECONDS + 1
    assert made._told_key(There(0.0), HERE, RENTAL) == ()

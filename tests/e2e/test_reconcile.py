"""`lumina reconcile` beside the emulator's own record: orphans end, strangers stay, and what was shown is what is done."""

import json
from decimal import Decimal

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import tags
from providers import registry
from providers.contract import LaunchSpec, OfferQuery
from providers.emulator import sandbox as control
from tests.e2e.rented import GPUS, Sandbox
from tests.ledger.conftest import NOW, a_rental, a_run


@pytest.fixture
def sandbox(lumina):
    made = Sandbox(lumina)
    yield made
    made.down()


def rent(sandbox, provider, tag):
    """Rent a machine past the product, as another program on the same account would."""
    client = registry.connect(
        provider,
        home=sandbox.cli.home / "another",
        local_usd_per_hour=Decimal(1),
        clock=SystemClock(),
        env=control.environment(sandbox.cli.home),
    )
    gpu = {"4090": "RTX4090", "a10": "A10"}[GPUS[provider]]
    offer = next(o for o in client.offers(OfferQuery(gpu=gpu, count=1)) if not o.interruptible)
    return client.create(offer, LaunchSpec(ssh_public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMl0 a"), tag).instance_id


def states(sandbox):
    return {i["id"]: i["state"] for i in sandbox.status()["instances"]}


def reconciled(sandbox, *words):
    done = sandbox("reconcile", "--json", *words)
    assert done.returncode == 0, done.stderr
    return {f["instance"]: f for f in json.loads(done.stdout.splitlines()[-1])["findings"]}


@pytest.mark.pain(10)
@pytest.mark.parametrize("provider", ["vastai", "runpod"])
def test_what_nobody_needs_ends_and_strangers_stay(sandbox, provider):
    sandbox.up()
    ledger = Ledger.open(sandbox.cli.home / "sandbox", SystemClock())
    ours = ledger.ledger_id()
    lost_tag = tags.make(ours, "debug-dense-lost", 1)
    with ledger.transaction() as tx:
        tx.add_run(a_run("debug-dense-lost", state="stopped", reason="stopped_by_user", provider=provider))
        tx.add_rental(a_rental("debug-dense-lost", provider=provider, state="lost", ended_at=NOW, tag=lost_tag, gpu="RTX4090"))
        tx.add_event("rental.lost_sight", run_id="debug-dense-lost", rental_id="debug-dense-lost-1")
    lost = rent(sandbox, provider, lost_tag)
    forgotten = rent(sandbox, provider, tags.make(ours, "debug-dense-none", 1))
    imitation = rent(sandbox, provider, "lumina-debug-dense-copy-1-00000000")
    before = reconciled(sandbox, "--dry-run")
    assert {i: before[i]["verdict"] for i in before} == {lost: "orphan", forgotten: "forgotten", imitation: "unknown"}
    assert {states(sandbox)[i] for i in before} <= {"creating", "running", "booting", "starting"}, states(sandbox)
    done = reconciled(sandbox)
    assert (done[lost]["done"], done[forgotten]["done"], done[imitation]["done"]) == ("ended", "ended", "")
    after = states(sandbox)
    assert (after[lost], after[forgotten]) == ("ended", "ended")
    assert after[imitation] != "ended"
    (rental,) = ledger.rentals("debug-dense-lost")
    assert (rental.state, rental.instance_id) == ("ended", lost)
    refused = sandbox("reconcile", "--terminate", "nobody", "--json")
    assert refused.returncode == 2
    assert reconciled(sandbox, "--terminate", imitation)[imitation]["done"] == "ended"
    assert set(states(sandbox).values()) == {"ended"}
    adopted = rent(sandbox, provider, "lumina-debug-dense-copy-2-00000000")
    assert "adopted" in reconciled(sandbox, "--adopt", adopted)[adopted]["done"]
    assert sandbox("status", "--json").returncode == 0
    assert states(sandbox)[adopted] == "ended"
    billed = {i["id"]: Decimal(i["usd_billed"]) for i in sandbox.status()["instances"]}
    assert ledger.spent("debug-dense-lost") == billed[lost]
    assert ledger.spent("debug-dense-copy") == billed[adopted]
    ledger.close()

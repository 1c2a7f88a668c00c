"""Launches with faults and kills on a virtual clock: nothing leaks, nothing is rented twice, the ledger is the invoice; and a product
that is broken on purpose is found out."""

from pathlib import Path

import pytest

from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import aside
from lumina_cloud.ledger.transaction import Transaction
from tests.chaos import campaign, sabotage

SEEDS = [line.split()[0] for line in Path(__file__).with_name("seeds.txt").read_text().splitlines() if line and not line.startswith("#")]
FOUND_IN = {"no-lookup": "lost-1/0/2", "no-reconcile": "1/4/1", "no-guard": "2/6/1", "charge-by-own-clock": "1/3/1"}
"""Small worlds in which each shows; any campaign of some length finds all of them."""
SHOWS_IN = {
    "no-lookup": "duplicates",
    "no-reconcile": "leaked",
    "no-guard": "leaked",
    "charge-by-own-clock": "ledger_minus_invoice_usd",
}
ZERO = ("leaked", "duplicates", "stuck", "checkpoints_lost", "crashes", "violations")


@pytest.mark.pain(7)
@pytest.mark.pain(11)
def test_a_campaign_finds_nothing_and_is_no_calm():
    """Its launches are killed and meet faults, and some of them come through. One test: what it plays takes a minute."""
    played = campaign.play(200, 1, "")
    assert {name: played[name] for name in ZERO} == dict.fromkeys(ZERO, 0)
    assert float(played["ledger_minus_invoice_usd"]) == 0
    assert played["launches"] == 200
    assert played["kills"] >= 80
    assert sum(played["faults"].values()) >= 80
    assert played["call_sites"] >= 20
    assert "succeeded finished" in played["endings"]


def test_the_same_seed_gives_the_same_log():
    first, again, other = (campaign.play(2, seed, "")["log_sha256"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("broken", sabotage.NAMES)
def test_each_sabotage_is_found(broken):
    found = campaign.replay(FOUND_IN[broken], broken)
    assert found["violations"] > 0
    assert float(found[SHOWS_IN[broken]]) > 0
    assert campaign.replay(FOUND_IN[broken], "")["violations"] == 0


@pytest.mark.pain(11)
def test_a_touch_of_the_outside_within_a_transaction_is_found(monkeypatch):
    add_event = Transaction.add_event

    def asks_first(self, kind, **data):
        if kind == "rental.intended":
            with edge("vastai.list"):
                pass
        return add_event(self, kind, **data)

    monkeypatch.setattr(Transaction, "add_event", asks_first)
    assert campaign.replay("1/3/1", "")["crashes"] > 0


@pytest.mark.parametrize("world", SEEDS)
def test_what_was_found_once_is_mended(world):
    assert campaign.replay(world, "")["violations"] == 0


@pytest.mark.pain(2)
def test_lost_and_lying_replies_to_creates_make_no_second_rental_and_no_orphan():
    found = campaign.play(12, 2, "", losing=True)
    assert found["lost_creates"] >= 12
    assert (found["duplicates"], found["orphans"], found["violations"]) == (0, 0, 0)


def test_a_machine_that_cannot_be_stored_is_written_beside_the_ledger_and_found_by_its_tag(monkeypatch):
    """The ledger's disk is full just when a machine was rented: the command ends, the next one drives the run on."""
    add_event, refused = Transaction.add_event, []

    def full(self, kind, **data):
        if kind == "rental.created" and not refused:
            refused.append(kind)
            raise LedgerError("the disk of the ledger is full", "free some space")
        return add_event(self, kind, **data)

    kept, dropped = [], []
    keep, settle = aside.keep, aside.settle

    def settled(folder, is_known):
        before = aside.pending(folder)
        left = settle(folder, is_known)
        dropped.extend(machine for machine in before if machine not in left)
        return left

    monkeypatch.setattr(Transaction, "add_event", full)
    monkeypatch.setattr(aside, "keep", lambda folder, machine, error: kept.append(machine) or keep(folder, machine, error))
    monkeypatch.setattr(aside, "settle", settled)
    found = campaign.replay("lost-1/1/1", "")
    assert refused
    assert found["violations"] == 0
    assert found["duplicates"] == 0
    assert len(kept) == 1
    assert dropped == kept, "once the ledger knows it, the line goes"

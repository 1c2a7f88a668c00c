"""The judge finds each breach that it is there for, and nothing in a campaign in which all went well."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from lumina_cloud.ledger import ArtifactRecord, EventRecord
from tests.chaos.judge import Abandoned, Evidence, Start, judge
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run

HOUR = 3600.0
TAG = "lumina-r-1"


def at(seconds):
    return NOW + timedelta(seconds=seconds)


def line(what, seconds, number="1", tag=TAG, **more):
    stamp = at(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"at": stamp, "provider": "runpod", "id": number, "tag": tag, "what": what, **more}


def row(number="1", usd="0.50", state="ended", tag=TAG):
    return {"provider": "runpod", "id": number, "state": state, "tag": tag, "usd_billed": usd}


def event(kind, seconds, number=1, rental="r-1", **data):
    return EventRecord(number, at(seconds), "r", rental, kind, data)


@pytest.fixture
def well(tmp_path):
    """One run that trained for half an hour at $1 an hour, under a cap of a dollar."""
    content = {"result.json": b"{}", "checkpoints/step-8/model": b"weights"}
    manifest = [{"path": "model", "bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}]
    content["checkpoints/step-8/manifest.json"] = json.dumps(manifest).encode()
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    files = [ArtifactRecord("r", name, len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()]
    run = a_run("r", provider="runpod", state="succeeded", reason="finished", usd_cap=Decimal(1), seconds_cap=HOUR, folder=str(tmp_path))
    events = [
        event("rental.intended", 0),
        event("rental.created", 1, 2, instance="1"),
        event("run.checkpoint_home", 60, 3, name="step-8"),
    ]
    return Evidence(
        instances=[row()],
        history=[line("created", 0.5), line("running", 10), line("ended", 1800.5)],
        invoice_usd=Decimal("0.50"),
        runs=[run],
        rentals=[a_rental("r", provider="runpod", state="ended", usd_per_hour=Decimal(1))],
        charges=[a_charge("r", usd="0.50")],
        events=events,
        artifacts=files,
        starts=[Start("r", at(15).timestamp(), 0)],
    )


def breaches(evidence):
    return {finding.invariant for finding in judge(evidence).findings}


def test_nothing_is_found_where_all_went_well(well):
    assert judge(well).findings == []
    assert judge(well).as_data()["ledger_minus_invoice_usd"] == "0.00"


def test_a_second_live_instance_of_a_tag(well):
    twice = [*well.history, line("created", 900, "2"), line("ended", 1000, "2")]
    found = judge(replace(well, instances=[row(), row("2", "0")], history=twice))
    assert (found.duplicates, {f.invariant for f in found.findings}) == (1, {"I1"})


def test_what_a_provider_doubled_by_itself_is_no_duplicate(well):
    twice = [*well.history, line("created", 0.5, "2"), line("duplicated", 0.5, "2"), line("ended", 60, "2")]
    found = judge(replace(well, instances=[row(), row("2", "0")], history=twice))
    assert (found.duplicates, found.twins, found.findings) == (0, 1, [])


def test_an_instance_that_still_lives(well):
    found = judge(replace(well, instances=[row(state="running")], history=well.history[:2]))
    assert (found.leaked, {f.invariant for f in found.findings}) == (1, {"I2", "I6"})


def test_an_instance_that_outlived_its_deadline(well):
    long = [*well.history[:2], line("ended", HOUR + 200)]
    found = judge(replace(well, history=long))
    assert found.over_deadline_seconds_max == pytest.approx(199.5)
    assert {f.invariant for f in found.findings} == {"I2"}


def test_an_instance_that_outlived_its_lease_with_nobody_there(well):
    left = Abandoned("r", at(100).timestamp(), at(86400).timestamp(), lease_seconds=600.0)
    assert breaches(replace(well, abandoned=[left])) == {"I2"}
    assert breaches(replace(well, abandoned=[replace(left, lease_seconds=1600.0)])) == set()


def test_a_bill_that_is_not_the_ledgers_to_the_micro_dollar(well):
    found = judge(replace(well, charges=[a_charge("r", usd="0.499999")]))
    assert found.ledger_minus_invoice_usd == Decimal("0.000001")
    assert {f.invariant for f in found.findings} == {"I3"}
    assert breaches(replace(well, invoice_usd=Decimal("0.51"))) == {"I3"}


def test_differences_of_two_rentals_do_not_cancel_out(well):
    two = [row(), row("2", "0.10", tag="lumina-r-2")]
    history = [*well.history, line("created", 2000, "2", "lumina-r-2"), line("ended", 2360, "2", "lumina-r-2")]
    second = a_rental("r", 2, provider="runpod", state="ended", usd_per_hour=Decimal(1))
    events = [*well.events, event("rental.intended", 1999, 4, "r-2"), event("rental.created", 2001, 5, "r-2", instance="2")]
    charges = [a_charge("r", usd="0.40"), replace(a_charge("r", usd="0.20", n=2), rental_id="r-2")]
    together = replace(
        well,
        instances=two,
        history=history,
        invoice_usd=Decimal("0.60"),
        rentals=[*well.rentals, second],
        events=events,
        charges=charges,
    )
    assert judge(together).ledger_minus_invoice_usd == Decimal("0.20")


def test_a_run_that_cost_more_than_its_cap_and_a_step(well):
    assert breaches(replace(well, caps={"r": Decimal("0.499")})) == {"I4"}
    assert breaches(replace(well, caps={"r": Decimal("0.4999")})) == set()
    assert breaches(replace(well, month_cap_usd=Decimal("0.4"))) == {"I4"}


def test_a_cap_binds_nobody_where_a_machine_cannot_end_itself_and_nobody_is_there(well):
    lone = [{**line, "provider": "lambda"} for line in well.history]
    left = Abandoned("r", at(100).timestamp(), at(86400).timestamp(), lease_seconds=600.0)
    run, rental = replace(well.runs[0], provider="lambda"), replace(well.rentals[0], provider="lambda")
    there = replace(
        well, instances=[{**row(), "provider": "lambda"}], history=lone, runs=[run], rentals=[rental], caps={"r": Decimal("0.2")}
    )
    assert breaches(there) == {"I4"}
    assert judge(replace(there, abandoned=[left])).findings == []


def test_an_instance_before_its_intent_and_one_without_a_rental(well):
    late = [event("rental.intended", 0.6), *well.events[1:]]
    assert breaches(replace(well, events=late)) == {"I5"}
    assert "I5" in breaches(replace(well, rentals=[]))


def test_an_instance_that_nobody_had_in_hand_in_time(well):
    late = [well.events[0], event("rental.created", 500, 2, instance="1"), well.events[2]]
    assert judge(replace(well, events=late)).orphans == 1
    assert judge(well).orphans == 0


def test_a_run_that_is_not_over_and_one_without_a_known_reason(well):
    stuck = judge(replace(well, runs=[replace(well.runs[0], state="finishing")]))
    assert (stuck.stuck, {f.invariant for f in stuck.findings}) == (1, {"I6"})
    assert breaches(replace(well, runs=[replace(well.runs[0], reason="who knows")])) == {"I6"}
    assert breaches(replace(well, rentals=[replace(well.rentals[0], state="booting")])) == {"I6"}


def test_a_success_of_which_a_byte_is_wrong_or_a_file_is_missing(well, tmp_path):
    (tmp_path / "result.json").write_bytes(b"[]")
    assert breaches(well) == {"I7"}
    assert breaches(replace(well, artifacts=well.artifacts[1:])) == {"I7"}


def test_an_instance_of_somebody_else_that_was_ended(well):
    others = [*well.history, line("created", 0, "x", "not-ours"), line("ended", 50, "x", "not-ours", why="by its user")]
    touched = replace(well, instances=[*well.instances, row("x", "0", tag="not-ours")], history=others, foreign=["x"])
    assert breaches(touched) == {"I8"}
    assert breaches(replace(touched, history=others[:-1])) == set()


def test_an_instance_that_the_ledger_has_lost_is_to_be_ended_and_no_more(well):
    lost = [*well.history, line("created", 0, "x", "lumina-q-1")]
    there = replace(well, instances=[*well.instances, row("x", "0", "running", "lumina-q-1")], history=lost, forgotten=["x"])
    assert (judge(there).leaked, breaches(there)) == (1, {"I2"})
    over = replace(
        there, instances=[*well.instances, row("x", "0", tag="lumina-q-1")], history=[*lost, line("ended", 9, "x", "lumina-q-1")]
    )
    assert breaches(over) == set()


def test_a_start_from_before_a_checkpoint_that_was_at_home_and_one_that_is_gone(well, tmp_path):
    again = judge(replace(well, starts=[*well.starts, Start("r", at(100).timestamp(), 4)]))
    assert (again.checkpoints_lost, {f.invariant for f in again.findings}) == (1, {"checkpoint"})
    (tmp_path / "checkpoints/step-8/model").write_bytes(b"spoiled")
    assert judge(well).checkpoints_lost == 1


def test_a_price_that_rose_excuses_what_was_spent_while_nobody_was_there_and_nothing_else(well):
    """Under a cap of thirty cents a machine at $1 an hour may live 18 minutes; it lived thirty."""
    dear = replace(well, caps={"r": Decimal("0.30")})
    risen = replace(dear, events=[*well.events, event("rental.price_rose", 300, 9)])
    left = Abandoned("r", at(0).timestamp(), at(0).timestamp(), 900.0)
    assert breaches(dear) == {"I2", "I4"}
    assert breaches(risen) == {"I2", "I4"}, "somebody was there, and could have known"
    assert breaches(replace(dear, abandoned=[left])) == {"I2", "I4"}, "no price rose"
    assert breaches(replace(risen, abandoned=[left])) == set()
    assert judge(replace(risen, abandoned=[left])).unguarded_over_cap_usd_max == Decimal("0.20")

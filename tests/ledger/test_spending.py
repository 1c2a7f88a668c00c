"""Where the money went: no micro-dollar is lost or made, whatever the days, phases, labels, and the order in which things became known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumina_cloud.core import money
from lumina_cloud.ledger import spending
from lumina_cloud.ledger.verifying import verify
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run, fill

PARTS = tuple(f"{name}_micros" for name in ("training", "boot", "failed", "interrupted", "idle", "storage", "traffic", "other"))
FIRST = datetime(2026, 2, 27, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=34)).map(lambda after: FIRST + after)
maybe = st.one_of(st.none(), moments)


@st.composite
def charged_runs(draw):
    rental = a_rental(
        intended_at=draw(moments),
        training_at=draw(maybe),
        work_ended_at=draw(maybe),
        saved_at=draw(maybe),
        ended_at=draw(maybe),
        state=draw(st.sampled_from(["ready", "ended"])),
        ending=draw(st.sampled_from(["", "finished", "interrupted"])),
    )
    run = a_run(
        state=draw(st.sampled_from(["training", "succeeded", "failed"])),
        started_at=draw(maybe),
        labels=draw(st.sampled_from([[], ["a"], ["a", "b=c"]])),
        project=draw(st.sampled_from(["", "p"])),
        result=draw(st.sampled_from([{}, {"tokens": 12_345_677, "loss_first": 9.1, "loss_last": 3.3}])),
    )
    charges = []
    for n in range(draw(st.integers(1, 4))):
        since = draw(moments)
        usd = draw(st.decimals(0, 900, places=6))
        charge = replace(a_charge(usd=usd, since=since, until=since + draw(st.timedeltas(timedelta(0), timedelta(days=5))), n=n))
        charges.append(replace(charge, kind=draw(st.sampled_from(["gpu", "gpu", "storage", "traffic", "other"]))))
    return run, [rental], charges


@given(charged_runs())
@settings(max_examples=200, deadline=None)
def test_every_dimension_adds_up_to_the_charges_exactly(known):
    run, rentals, charges = known
    total = sum(money.to_micros(c.usd) for c in charges)
    machine = sum((c.until - c.since) // timedelta(microseconds=1) for c in charges if c.kind == "gpu")
    made = spending.cells(run, rentals, charges)
    for dimension in spending.DIMENSIONS:
        mine = {key: m for (d, key), m in made.items() if d == dimension}
        times = len(run.labels or [""]) if dimension == "label" else 1
        assert sum(m["usd_micros"] for m in mine.values()) == total * times
        assert sum(m["microseconds"] for m in mine.values()) == machine * times
        assert sum(m["runs"] for m in mine.values()) == times
        assert sum(m.get("tokens", 0) for m in mine.values()) == run.result.get("tokens", 0) * times
        for measures in mine.values():
            assert sum(measures.get(part, 0) for part in PARTS) == measures["usd_micros"]
            assert all(value >= 0 for value in measures.values())


def phases(**rental):
    """Return the parts of an hour's charge of 3,600 micro-dollars, one a second, as seconds."""
    run = a_run(result={})
    charge = a_charge(usd="0.0036", since=NOW, until=NOW + timedelta(hours=1))
    made = spending.cells(run, [a_rental(**{"state": "ended", **rental})], [charge])["all", ""]
    return {part.removesuffix("_micros"): made[part] for part in PARTS if made.get(part)}


def at(minutes):
    return NOW + timedelta(minutes=minutes)


def test_an_hour_is_told_apart_into_boot_training_and_idling():
    whole = {"training_at": at(10), "work_ended_at": at(55), "ending": "finished"}
    assert phases(**whole) == {"boot": 600, "training": 2700, "idle": 300}


def test_an_interruption_loses_what_came_after_the_last_checkpoint():
    lost = {"training_at": at(10), "work_ended_at": at(60), "ending": "interrupted"}
    assert phases(**lost, saved_at=at(40)) == {"boot": 600, "training": 1800, "interrupted": 1200}
    assert phases(**lost) == {"boot": 600, "interrupted": 3000}


def test_a_machine_that_never_trained_is_lost_as_a_whole():
    assert phases() == {"failed": 3600}
    assert phases(state="booting") == {"boot": 3600}


def test_a_night_belongs_to_both_days_and_a_new_year_to_both_weeks():
    eve = datetime(2026, 12, 31, 22, tzinfo=UTC)
    charge = a_charge(usd="4.00", since=eve, until=eve + timedelta(hours=4))
    made = spending.cells(a_run(), [a_rental()], [charge])
    assert {key: m["usd_micros"] for (d, key), m in made.items() if d == "month"} == {"2026-12": 2_000_000, "2027-01": 2_000_000}
    assert {key: m["runs"] for (d, key), m in made.items() if d == "day"} == {"2026-12-31": 1, "2027-01-01": 0}
    assert {key for d, key in made if d == "week"} == {"2026-W53"}


@pytest.mark.parametrize("hours", [-7, 5.5, 13])
def test_the_zone_in_which_a_time_is_given_changes_nothing(hours):
    from datetime import timezone

    zone = timezone(timedelta(hours=hours))
    charge = a_charge(usd="1.23", since=NOW, until=NOW + timedelta(hours=30))
    elsewhere = replace(charge, since=charge.since.astimezone(zone), until=charge.until.astimezone(zone))
    assert spending.cells(a_run(), [a_rental()], [charge]) == spending.cells(a_run(), [a_rental()], [elsewhere])


steps = st.lists(
    st.tuples(
        st.sampled_from(["charge", "charge", "result", "label", "phase", "uncount", "grow"]),
        st.integers(0, 2),
        st.decimals(0, 100, places=6),
        st.integers(0, 200_000),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_what_transactions_keep_in_step_is_what_the_whole_comes_to(another_ledger, made):
    ledger = another_ledger()
    for n in range(3):
        fill(ledger, f"r{n}", created_at=NOW + timedelta(days=n))
    for kind, n, usd, seconds in made:
        run = f"r{n}"
        with ledger.transaction() as tx:
            if kind in ("charge", "grow"):
                until = NOW + timedelta(seconds=seconds)
                tx.put_charge(a_charge(run, usd=usd, until=until, n=1 if kind == "grow" else seconds % 3))
            elif kind == "uncount":
                for charge in tx.charges(run)[:1]:
                    tx.put_charge(replace(charge, counted=not charge.counted))
            elif kind == "result":
                tx.update_run(run, state="succeeded", result={"tokens": seconds, "loss_first": 9.0, "loss_last": 4.0})
            elif kind == "label":
                tx.update_run(run, labels=[f"l{seconds % 2}"], project=f"p{seconds % 2}")
            else:
                tx.update_rental(f"{run}-1", training_at=NOW + timedelta(seconds=seconds // 2), state="ended")
    assert verify(ledger.database).problems == []
    total = sum((c.usd for c in ledger.charges()), Decimal(0))
    assert sum((row.usd for row in ledger.costs("day")), Decimal(0)) == total
    ledger.close()


def test_a_negative_interval_is_refused(ledger):
    fill(ledger)
    with pytest.raises(ValueError, match="before it begins"), ledger.transaction() as tx:
        tx.put_charge(a_charge(since=NOW, until=NOW - timedelta(seconds=1)))
    assert ledger.charges() == []

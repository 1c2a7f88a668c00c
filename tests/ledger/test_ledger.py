"""What goes in comes out: exact money, aware times, one transaction or nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import ArtifactRecord, MetricRecord, PlanRecord
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run, fill

amounts = st.decimals(min_value=0, max_value=5000, places=6)


def test_records_come_back_as_they_went_in(ledger):
    run, rental, charge = a_run(), a_rental(), a_charge()
    with ledger.transaction() as tx:
        tx.add_plan(PlanRecord("p-1", NOW, {"model": "debug"}, {"rows": []}))
        tx.add_run(run)
        tx.add_rental(rental)
        tx.put_charge(charge)
        tx.add_event("run.launched", run_id=run.run_id, cap="0.10")
    assert ledger.run(run.run_id) == run
    assert ledger.rentals(run.run_id) == [rental]
    assert ledger.charges() == [charge]
    assert ledger.last_plan() == ledger.plan("p-1") == PlanRecord("p-1", NOW, {"model": "debug"}, {"rows": []})
    (event,) = ledger.events(run.run_id)
    assert (event.kind, event.data) == ("run.launched", {"cap": "0.10"})
    assert event.at.tzinfo is not None
    assert ledger.run("nothing") is None


def test_an_exception_leaves_nothing_behind(ledger):
    with pytest.raises(RuntimeError), ledger.transaction() as tx:
        tx.add_run(a_run())
        raise RuntimeError("in the middle")
    assert ledger.runs() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(amounts, amounts)
def test_money_is_exact_to_the_micro_dollar(ledger, price, amount):
    name = f"run-{price}-{amount}"
    if ledger.run(name) is None:
        fill(ledger, name, usd_per_hour=price, usd_cap=amount)
        with ledger.transaction() as tx:
            tx.put_charge(a_charge(name, usd=amount))
    run = ledger.run(name)
    assert (run.usd_per_hour, run.usd_cap) == (price, amount)
    assert ledger.spent(name) == amount


def test_a_naive_time_is_refused(ledger):
    with pytest.raises((LedgerError, ValueError), match="naive"), ledger.transaction() as tx:
        tx.add_run(a_run(created_at=datetime(2026, 1, 1)))  # noqa: DTZ001  # the point of the test
    assert ledger.runs() == []


def test_a_time_in_another_zone_is_the_same_moment(ledger):
    from datetime import timezone

    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    fill(ledger, created_at=elsewhere)
    assert ledger.run("debug-dense-1").created_at == NOW
    assert ledger.run("debug-dense-1").created_at.utcoffset() == timedelta(0)


def test_a_growing_charge_is_one_charge(ledger):
    fill(ledger)
    for usd in ("0.01", "0.02", "0.03"):
        with ledger.transaction() as tx:
            tx.put_charge(a_charge(usd=usd))
    assert ledger.spent("debug-dense-1") == Decimal("0.03")
    assert len(ledger.charges()) == 1


def test_steps_are_kept_once(ledger):
    fill(ledger)
    for loss in (5.0, 4.0):
        with ledger.transaction() as tx:
            tx.put_metrics("debug-dense-1", [MetricRecord("debug-dense-1", step, {"loss": loss}) for step in range(1, 4)])
            tx.put_metrics("debug-dense-1", [])
    assert [(m.step, m.data["loss"]) for m in ledger.metrics("debug-dense-1")] == [(1, 4.0), (2, 4.0), (3, 4.0)]


def test_the_list_of_files_is_replaced(ledger):
    fill(ledger)
    for names in (["a", "b"], ["b", "c"]):
        with ledger.transaction() as tx:
            tx.put_artifacts("debug-dense-1", [ArtifactRecord("debug-dense-1", name, 3, "0" * 64) for name in names])
    assert [a.path for a in ledger.artifacts("debug-dense-1")] == ["b", "c"]


def test_what_is_not_there_cannot_be_changed(ledger):
    with pytest.raises(LookupError), ledger.transaction() as tx:
        tx.update_run("nothing", state="failed")


@pytest.mark.parametrize("changes", [{"state": "flying"}, {"usd_cap": Decimal(-1)}])
def test_the_database_itself_refuses_nonsense(ledger, changes):
    with pytest.raises(LedgerError), ledger.transaction() as tx:
        tx.add_run(a_run(**changes))


def test_a_second_rental_of_the_same_tag_is_refused(ledger):
    fill(ledger)
    with pytest.raises(LedgerError), ledger.transaction() as tx:
        tx.add_rental(replace(a_rental(attempt=2), tag=a_rental().tag))


def test_open_rentals_are_those_that_may_cost_money(ledger):
    fill(ledger)
    assert [r.rental_id for r in ledger.open_rentals()] == ["debug-dense-1-1"]
    with ledger.transaction() as tx:
        tx.update_rental("debug-dense-1-1", state="ended", ended_at=NOW)
    assert ledger.open_rentals() == []


charges = st.lists(
    st.tuples(st.sampled_from(["dense", "moe", "mod"]), amounts, st.integers(0, 100_000), st.integers(0, 60)), min_size=1, max_size=12
)


@settings(max_examples=25, deadline=None)
@given(charges)
@example([("dense", Decimal(0), 68033, 57)])
@example([("dense", Decimal(1), 100_000, 57)])
@example([("dense", Decimal(1), 43_200, 57)])
def test_grouped_costs_add_up_to_the_charges(another_ledger, made):
    ledger = another_ledger()
    with ledger.transaction() as tx:
        for n, (arch, usd, seconds, days) in enumerate(made):
            since = NOW + timedelta(days=days)
            tx.add_run(a_run(f"r{n}", arch=arch))
            tx.add_rental(a_rental(f"r{n}"))
            tx.put_charge(a_charge(f"r{n}", usd=usd, since=since, until=since + timedelta(seconds=seconds)))
    total = sum(usd for _, usd, _, _ in made)
    for by in ("model", "arch", "provider", "gpu", "month"):
        rows = ledger.costs(by)
        assert sum(r.usd for r in rows) == total
        assert sum(r.runs for r in rows) == len(made)
        assert sum(r.hours for r in rows) == pytest.approx(sum(s for _, _, s, _ in made) / 3600, abs=1e-3)
        assert [r.usd for r in rows] == sorted((r.usd for r in rows), reverse=True)
    # One that goes on past the end of a month is divided.
    begins = [(NOW + timedelta(days=d), timedelta(seconds=s)) for _, _, s, d in made]
    months = {f"{moment:%Y-%m}" for since, whole in begins for moment in (since, max(since, since + whole - timedelta(microseconds=1)))}
    assert {r.key for r in ledger.costs("month")} == months
    ledger.close()


def test_runs_are_listed_newest_first(ledger):
    for n in range(3):
        fill(ledger, f"r{n}", created_at=datetime(2026, 1, 1 + n, tzinfo=UTC), state="failed" if n == 1 else "training")
    assert ledger.run_names() == ["r2", "r1", "r0"]
    assert [r.run_id for r in ledger.runs(["training"])] == ["r2", "r0"]

"""What is decided from what is known: nothing is rented twice, forgotten, or ended without being fetched."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.runs import states
from lumina_cloud.runs.decide import LEAST_UNREACHABLE_SECONDS, STALL_SECONDS, Decision, Exit, Facts, Machine, decide, outcome

exits = st.builds(
    Exit, returncode=st.sampled_from([0, 1, 2, 3, 75, -9, -15]), reason=st.sampled_from(["finished", "stopped", "deadline", "crashed"])
)
facts = st.builds(
    Facts,
    run=st.sampled_from(get_args(states.RunState)),
    stop_requested=st.booleans(),
    rental=st.one_of(st.none(), st.sampled_from(get_args(states.RentalState))),
    machine=st.sampled_from(get_args(Machine)),
    booting_seconds=st.floats(0, 1000),
    started=st.booleans(),
    training=st.booleans(),
    exit=st.one_of(st.none(), exits),
)


@given(facts)
def test_money_is_only_spent_for_a_run_that_wants_a_machine(known):
    decision = decide(known)
    if decision.action in ("intend", "create"):
        assert known.run == "provisioning"
        assert not known.stop_requested
        assert known.rental in (None, "ended", "lost", "intended", "creating")


@given(facts)
def test_a_create_follows_a_written_intent_and_an_intent_is_not_written_twice(known):
    decision = decide(known)
    if decision.action == "create":
        assert known.rental in ("intended", "creating")
    if decision.action == "intend":
        assert known.rental in (None, "ended", "lost")


@given(facts)
def test_a_run_that_has_ended_is_left_alone(known):
    if known.run in (*states.FINAL, "planned"):
        assert decide(known) == Decision("nothing")


@pytest.mark.pain(14)
@given(facts)
def test_every_end_has_a_reason_of_the_closed_list_and_only_from_active_states(known):
    decision = decide(known)
    if decision.action in ("end", "abandon"):
        assert decision.reason in states.REASONS
        assert (known.run, "work_ended") in states.RUN_TABLE


at_work = st.builds(
    Facts,
    run=st.sampled_from(["preparing", "training"]),
    rental=st.just("ready"),
    machine=st.sampled_from(["unknown", "creating", "running"]),
    lease_ran_out=st.booleans(),
    cap_near=st.booleans(),
    price_rose=st.booleans(),
    booting_seconds=st.floats(0, 1e6),
    unreachable_seconds=st.floats(0, LEAST_UNREACHABLE_SECONDS),
    silent_seconds=st.floats(0, STALL_SECONDS),
    started=st.booleans(),
    training=st.booleans(),
    limits_behind=st.booleans(),
)
"""A machine that does its work, whatever became of its controllers meanwhile."""


@pytest.mark.pain(12)
@given(at_work)
def test_a_machine_at_work_is_ended_by_nothing_that_became_of_its_controllers(known):
    assert decide(known).action in ("wait", "ship", "mark_training", "tell_limits")


@given(facts)
def test_an_exit_is_never_ignored_while_the_run_works(known):
    if known.run in ("preparing", "training") and known.exit is not None:
        assert decide(known) == Decision("end", outcome(known.exit))


@given(facts)
def test_the_trainer_is_started_once(known):
    if known.started:
        assert decide(known).action != "ship"


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (0, "finished", "finished"),
        (0, "stopped", "finished"),
        (75, "stopped", "stopped_by_user"),
        (75, "deadline", "cap_reached"),
        (2, "crashed", "trainer_refused"),
        (3, "crashed", "loss_not_finite"),
        (-9, "crashed", "trainer_crashed"),
        (1, "crashed", "trainer_crashed"),
    ],
)
def test_outcomes(code, reason, said):
    assert outcome(Exit(code, reason)) == said


@pytest.mark.pain(5)
def test_a_machine_that_never_comes_up_is_given_back():
    assert decide(Facts(run="provisioning", rental="booting", machine="creating", booting_seconds=301)) == Decision("end", "boot_timeout")
    assert decide(Facts(run="provisioning", rental="booting", machine="creating", booting_seconds=10)) == Decision("wait")


@pytest.mark.parametrize("machine", ["creating", "running"])
def test_a_machine_that_boots_is_ended_while_the_cap_pays_for_its_end(machine):
    near = Facts(run="provisioning", rental="booting", machine=machine, booting_seconds=10, cap_near=True)
    assert decide(near) == Decision("end", "cap_reached")


def test_a_stop_before_the_machine_exists_looks_for_it_first():
    assert decide(Facts(run="provisioning", rental="creating", stop_requested=True)).action == "abandon"


WORKING = {"run": "training", "rental": "ready", "machine": "running", "started": True, "training": True}


def test_a_full_disk_is_named_where_its_supervisor_could_not():
    """Who could not write how it ended is gone; that nothing can be written says why."""
    assert decide(Facts(**WORKING, supervised=False, refuses_writes=True)) == Decision("end", "disk_full")
    assert decide(Facts(**WORKING, supervised=False)) == Decision("end", "supervisor_lost")


@pytest.mark.parametrize("machine", ["stopped", "gone"])
@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"cap_near": True}, "cap_reached"),
        ({"cap_near": True, "interrupted": True}, "interrupted"),
        ({"lease_ran_out": True}, "lease_ran_out"),
        ({"lease_ran_out": True, "cap_near": True}, "cap_reached"),
        ({}, "machine_lost"),
    ],
)
@pytest.mark.pain(10)
def test_a_machine_that_ended_itself_says_by_its_time_why(machine, known, said):
    """Deleted by its guard, or switched off by it where the provider's API was out of its reach."""
    assert decide(Facts(**{**WORKING, "machine": machine}, **known)) == Decision("end", said)


GONE = Facts(run="provisioning", rental="booting", machine="gone")


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (GONE, "machine_lost"),
        (replace(GONE, lease_ran_out=True), "lease_ran_out"),
        (replace(GONE, lease_ran_out=True, interrupted=True), "interrupted"),
        (replace(GONE, lease_ran_out=True, stop_requested=True), "stopped_by_user"),
    ],
)
def test_a_machine_that_ended_while_it_booted_and_nobody_was_there_is_not_rented_again(known, reason):
    assert decide(known).reason == reason


WAITING = Facts(run="finishing", rental="ready", machine="running", unreachable_seconds=1.0, results_seconds=5.0)


@pytest.mark.parametrize(
    ("known", "action"),
    [
        (WAITING, "wait"),
        (replace(WAITING, unreachable_seconds=0.0), "conclude"),
        (replace(WAITING, machine="gone"), "conclude"),
        (replace(WAITING, results_seconds=400.0), "conclude"),
        (replace(WAITING, results_seconds=None), "conclude"),
        (replace(WAITING, cap_near=True), "conclude"),
        (replace(WAITING, key_changed=True), "conclude"),
    ],
    ids=["out of reach", "reached", "gone", "out of reach for long", "nothing to fetch", "its cap", "another key"],
)
def test_a_machine_that_is_out_of_reach_keeps_its_results_for_a_while(known, action):
    assert decide(known).action == action


@pytest.mark.pain(9)
def test_a_machine_that_costs_more_than_its_offer_said_is_given_back_while_it_boots():
    booting = Facts("provisioning", rental="booting", machine="creating", price_rose=True)
    assert decide(booting) == Decision("end", "price_rose")
    assert decide(replace(booting, machine="running")) == Decision("end", "price_rose")
    assert decide(replace(booting, stop_requested=True)) == Decision("end", "stopped_by_user")

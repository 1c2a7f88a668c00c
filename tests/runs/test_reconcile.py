"""What is rented beside what the ledger knows: every verdict, and that nobody else's machine is ever for us to end."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.runs import tags
from lumina_cloud.runs.reconcile import TO_END, Books, judge
from providers.contract import Instance
from tests.ledger.conftest import NOW, a_rental, a_run

OURS, THEIRS = "0123456789abcdef", "fedcba9876543210"
names = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,6}){0,4}", fullmatch=True)


def an_instance(tag, instance_id="i-1", state="running"):
    return Instance(instance_id, tag, state, Decimal(1), NOW, None, None)


def verdict(instance, rental=None, run_state="training"):
    runs = {} if rental is None else {rental.run_id: a_run(rental.run_id, state=run_state)}
    found = judge("vastai", [instance], [] if rental is None else [rental], Books(runs.get, OURS, NOW))
    return found[0].verdict


@given(names, st.integers(1, 10**6 - 1))
def test_a_tag_says_whose_it_is(run, attempt):
    made = tags.make(OURS, run, attempt)
    assert made.startswith("lumina-")
    assert tags.read(made).attempt == attempt
    assert tags.is_of(OURS, made)
    assert not tags.is_of(THEIRS, made)
    assert not tags.is_of(OURS, f"lumina-{run}-{attempt}")
    assert not tags.is_of(OURS, f"{made}0")


@given(st.text(max_size=60))
def test_no_label_that_somebody_makes_up_is_ours(text):
    assert not tags.is_of(OURS, f"lumina-{text}")
    assert verdict(an_instance(f"lumina-{text}")) not in TO_END


LIVE = a_rental("r", state="ready", provider="vastai", instance_id="i-1", tag=tags.make(OURS, "r", 1))


@pytest.mark.pain(10)
@pytest.mark.parametrize(
    ("tag", "rental", "run_state", "state", "said"),
    [
        (LIVE.tag, LIVE, "training", "running", "live"),
        (LIVE.tag, LIVE, "training", "stopped", "stopped"),
        (LIVE.tag, LIVE, "failed", "running", "orphan"),
        (LIVE.tag, a_rental("r", state="ended", ended_at=NOW - timedelta(hours=1), tag=LIVE.tag), "failed", "stopped", "orphan"),
        (LIVE.tag, a_rental("r", state="ended", ended_at=NOW - timedelta(seconds=9), tag=LIVE.tag), "failed", "running", "ending"),
        (LIVE.tag, a_rental("r", state="lost", ended_at=NOW, tag=LIVE.tag), "provisioning", "running", "orphan"),
        (LIVE.tag, a_rental("r", state="creating", tag=LIVE.tag), "provisioning", "creating", "live"),
        (tags.make(OURS, "gone", 1), None, "", "running", "forgotten"),
        (tags.make(THEIRS, "r", 1), None, "", "running", "unknown"),
        ("lumina-r-1", None, "", "running", "unknown"),
    ],
)
def test_verdicts(tag, rental, run_state, state, said):
    assert verdict(an_instance(tag, state=state), rental, run_state) == said


def test_a_machine_that_is_missing_from_a_valid_list_is_told_once_it_has_had_time_to_show():
    for age, missing in ((10, False), (600, True)):
        rental = a_rental("r", state="ready", instance_id="i-1", intended_at=NOW - timedelta(seconds=age))
        found = judge("vastai", [], [rental], Books({"r": a_run("r")}.get, OURS, NOW))
        assert [f.verdict for f in found] == (["gone"] if missing else [])


@pytest.mark.parametrize(("run_state", "said"), [("failed", ["unwritten"]), ("finishing", [])])
def test_a_machine_that_went_while_it_was_ended_is_somebodys_to_write_down(run_state, said):
    rental = a_rental("r", state="terminating", instance_id="i-1", intended_at=NOW - timedelta(hours=1))
    found = judge("vastai", [], [rental], Books({"r": a_run("r", state=run_state)}.get, OURS, NOW))
    assert [f.verdict for f in found] == said

"""The two tables are complete, closed, and lead to an end."""

from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.ledger import RENTAL_STATES, RUN_STATES
from lumina_cloud.runs import states


def test_the_tables_speak_of_the_ledgers_states():
    assert set(get_args(states.RunState)) == set(RUN_STATES)
    assert set(get_args(states.RentalState)) == set(RENTAL_STATES)


@given(st.sampled_from(get_args(states.RunState)), st.sampled_from(get_args(states.RunEvent)))
def test_a_pair_outside_the_run_table_is_refused(state, event):
    if (state, event) in states.RUN_TABLE:
        assert states.next_run_state(state, event) == states.RUN_TABLE[state, event]
    else:
        with pytest.raises(states.IllegalTransition):
            states.next_run_state(state, event)


@given(st.sampled_from(get_args(states.RentalState)), st.sampled_from(get_args(states.RentalEvent)))
def test_a_pair_outside_the_rental_table_is_refused(state, event):
    if (state, event) in states.RENTAL_TABLE:
        assert states.next_rental_state(state, event) == states.RENTAL_TABLE[state, event]
    else:
        with pytest.raises(states.IllegalTransition):
            states.next_rental_state(state, event)


def test_every_cell_of_both_tables_is_declared():
    assert set(states.RUN_CELLS) == set(product(get_args(states.RunState), get_args(states.RunEvent)))
    assert set(states.RENTAL_CELLS) == set(product(get_args(states.RentalState), get_args(states.RentalEvent)))
    assert set(states.ACTIONS) == set(get_args(states.RunState))


@pytest.mark.parametrize("spoiled", ["a missing cell", "an unknown state", "a missing line", "a missing column"])
def test_a_table_with_a_hole_does_not_load(spoiled):
    lines = states.RENTAL_GRID.strip().splitlines()
    match spoiled:
        case "a missing cell":
            lines[3] = lines[3].rsplit(maxsplit=1)[0]
        case "an unknown state":
            lines[3] = lines[3].replace("ready", "redy")
        case "a missing line":
            del lines[3]
        case "a missing column":
            lines[0] = lines[0].replace("found", "")
    with pytest.raises((ValueError, KeyError)):
        states.table_of("\n".join(lines), get_args(states.RentalState), get_args(states.RentalEvent))


def test_every_active_state_can_reach_an_end_and_no_end_spends():
    for start in states.ACTIVE:
        reached, frontier = {start}, [start]
        while frontier:
            here = frontier.pop()
            for (state, _event), there in states.RUN_TABLE.items():
                if state == here and there not in reached:
                    reached.add(there)
                    frontier.append(there)
        assert set(states.FINAL) <= reached
    assert not set(states.ACTIVE) & set(states.FINAL)


@pytest.mark.pain(14)
def test_every_reason_concludes_a_run():
    assert set(states.REASONS) == set(get_args(states.Reason))
    for event, words in states.REASONS.values():
        assert states.next_run_state("finishing", event) in states.FINAL
        assert words

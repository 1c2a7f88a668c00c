"""The events of every release's runs lead to the states that they were in."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from lumina_cloud.runs import history, states

KEPT = [
    json.loads(line) for file in sorted(Path(__file__).with_name("histories").glob("*.jsonl")) for line in file.read_text().splitlines()
]


@dataclass
class Said:
    kind: str
    rental_id: str | None
    data: dict


@pytest.mark.parametrize("kept", KEPT, ids=[k["run"] for k in KEPT])
def test_a_kept_history_leads_to_its_state(kept):
    reached = history.replay(Said(*event) for event in kept["events"])
    assert (reached.run, reached.rentals) == (kept["state"], kept["rentals"])


def test_the_kept_histories_pass_most_cells():
    """A table that changes under them is noticed: they use each pair that a run without a lost reply can."""
    kinds = {event[0] for kept in KEPT for event in kept["events"]}
    assert set(history.RUN_EVENTS) <= kinds
    assert set(history.RENTAL_EVENTS) - {"rental.lost_sight", "rental.found", "rental.abandoned"} <= kinds


def test_a_history_that_no_table_allows_is_refused():
    with pytest.raises(states.IllegalTransition):
        history.replay([Said("run.launched", None, {}), Said("run.training_began", None, {})])

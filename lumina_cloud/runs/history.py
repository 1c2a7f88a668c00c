"""What a run's events say about its state: the same tables, walked from the beginning.

A ledger keeps a state beside its events, written in one transaction. Walking the events again must lead to the same state, for the
runs of every release: a table that changed its mind about the past would strand runs that go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from lumina_cloud.runs.states import REASONS, next_rental_state, next_run_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lumina_cloud.ledger import EventRecord
    from lumina_cloud.runs.states import Reason, RentalEvent, RentalState, RunEvent, RunState

RUN_EVENTS: dict[str, RunEvent] = {
    "run.launched": "launch",
    "rental.ready": "machine_ready",
    "run.training_began": "training_began",
    "run.work_ended": "work_ended",
    "run.resumed": "resume",
    "run.next_machine": "next_machine",
}
"""Kinds of events that move a run; `run.concluded` does too, by its reason."""

RENTAL_EVENTS: dict[str, RentalEvent] = {
    "rental.create": "create",
    "rental.created": "created",
    "rental.ready": "ready",
    "rental.terminate": "terminate",
    "rental.gone": "gone",
    "rental.abandoned": "abandoned",
    "rental.lost_sight": "lost_sight",
    "rental.found": "found",
}
"""Kinds of events that move a rental, which `rental.intended` begins."""


@dataclass
class History:
    """Where events led to."""

    run: RunState = "planned"
    rentals: dict[str, RentalState] = field(default_factory=dict)


def replay(events: Iterable[EventRecord]) -> History:
    """Return the states to which one run's events lead. Raises IllegalTransition for events that no table allows."""
    reached = History()
    for event in events:
        if event.kind in RUN_EVENTS:
            reached.run = next_run_state(reached.run, RUN_EVENTS[event.kind])
        elif event.kind == "run.concluded":
            reached.run = next_run_state(reached.run, REASONS[cast("Reason", event.data["reason"])][0])
        if event.rental_id is None:
            continue
        if event.kind == "rental.intended":
            reached.rentals[event.rental_id] = "intended"
        elif event.kind in RENTAL_EVENTS:
            before = reached.rentals[event.rental_id]
            reached.rentals[event.rental_id] = next_rental_state(before, RENTAL_EVENTS[event.kind])
    return reached

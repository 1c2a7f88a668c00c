"""The states of a run and of a rental: one table each, and nothing else changes a state.

Every pair of a state and an event has a cell: the state that follows, or `-` for a pair that cannot happen and is a bug where it does.
`docs/how-it-works.md` draws both tables from here (`scripts/state_tables.py`). A run's `reason` is one of a closed list, and decides
in which state it ends.
"""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

RunState = Literal["planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped"]
RunEvent = Literal[
    "launch",
    "machine_ready",
    "training_began",
    "work_ended",
    "concluded_well",
    "concluded_badly",
    "concluded_early",
    "resume",
    "next_machine",
]
RentalState = Literal["intended", "creating", "booting", "ready", "terminating", "ended", "lost"]
RentalEvent = Literal["create", "created", "ready", "terminate", "gone", "abandoned", "lost_sight", "found"]

Action = Literal[
    "nothing", "wait", "intend", "create", "abandon", "mark_ready", "ship", "mark_training", "ask_to_stop", "tell_limits", "end", "conclude"
]
"""What a controller may be told to do next (`lumina_cloud.runs.decide`)."""

ACTIVE: tuple[RunState, ...] = ("provisioning", "preparing", "training", "finishing")
"""States in which money may be spent."""
FINAL: tuple[RunState, ...] = ("succeeded", "failed", "stopped")
RESUMABLE: tuple[RunState, ...] = ("failed", "stopped")

# `next_machine`: its machine failed it, and the run goes on by itself on another.
RUN_GRID = """
             launch       machine_ready training_began work_ended concluded_well concluded_badly concluded_early resume       next_machine
planned      provisioning -             -              -          -              -               -               -            -
provisioning -            preparing     -              finishing  -              -               -               -            -
preparing    -            -             training       finishing  -              -               -               -            -
training     -            -             -              finishing  -              -               -               -            -
finishing    -            -             -              -          succeeded      failed          stopped         -            provisioning
succeeded    -            -             -              -          -              -               -               -            -
failed       -            -             -              -          -              -               -               provisioning -
stopped      -            -             -              -          -              -               -               provisioning -
"""

# A create that may have happened is repeated only after its tag was looked up, so `creating` takes `create` again. `lost_sight` gives
# up one that may yet turn up in its provider's list: whoever reconciles looks for it, and ends what is `found`.
RENTAL_GRID = """
             create       created       ready          terminate   gone          abandoned       lost_sight      found
intended     creating     -             -              -           -             ended           -               -
creating     creating     booting       -              -           -             ended           lost            -
booting      -            -             ready          terminating -             -               -               -
ready        -            -             -              terminating -             -               -               -
terminating  -            -             -              -           ended         -               -               -
ended        -            -             -              -           -             -               -               -
lost         -            -             -              -           -             -               -               terminating
"""

ACTIONS: dict[RunState, tuple[Action, ...]] = {
    "planned": ("nothing",),
    "provisioning": ("intend", "create", "abandon", "mark_ready", "wait", "end"),
    "preparing": ("ship", "mark_training", "ask_to_stop", "tell_limits", "wait", "end"),
    "training": ("ship", "ask_to_stop", "tell_limits", "wait", "end"),
    "finishing": ("conclude", "wait"),
    "succeeded": ("nothing",),
    "failed": ("nothing",),
    "stopped": ("nothing",),
}
"""What may be done with a run in each of its states: all that `decide` ever asks for."""

State = TypeVar("State", bound=str)
Event = TypeVar("Event", bound=str)


def table_of(grid: str, states: tuple[State, ...], events: tuple[Event, ...]) -> dict[tuple[State, Event], State | None]:
    """Read a grid: one line for each state, one column for each event. Raises ValueError for a cell that is missing or unknown."""
    head, *lines = [line.split() for line in grid.strip().splitlines()]
    if tuple(head) != events or tuple(line[0] for line in lines) != states:
        raise ValueError(f"a table has {head} by {[line[0] for line in lines]}, but must have {events} by {states}")
    known: dict[str, State | None] = {"-": None, **{state: state for state in states}}
    return {
        (state, event): known[cell]
        for state, (_, *cells) in zip(states, lines, strict=True)
        for event, cell in zip(events, cells, strict=True)
    }


RUN_CELLS: dict[tuple[RunState, RunEvent], RunState | None] = table_of(RUN_GRID, get_args(RunState), get_args(RunEvent))
RENTAL_CELLS: dict[tuple[RentalState, RentalEvent], RentalState | None] = table_of(
    RENTAL_GRID, get_args(RentalState), get_args(RentalEvent)
)

RUN_TABLE: dict[tuple[RunState, RunEvent], RunState] = {pair: to for pair, to in RUN_CELLS.items() if to is not None}
RENTAL_TABLE: dict[tuple[RentalState, RentalEvent], RentalState] = {pair: to for pair, to in RENTAL_CELLS.items() if to is not None}
"""The pairs that can happen."""

Reason = Literal[
    "finished",
    "stopped_by_user",
    "cap_reached",
    "create_failed",
    "no_capacity",
    "no_balance",
    "price_rose",
    "boot_timeout",
    "bootstrap_failed",
    "machine_unfit",
    "machine_lost",
    "machine_unreachable",
    "interrupted",
    "host_key_changed",
    "disk_full",
    "lease_ran_out",
    "trainer_stalled",
    "supervisor_lost",
    "trainer_refused",
    "trainer_crashed",
    "loss_not_finite",
    "result_missing",
]

REASONS: dict[Reason, tuple[RunEvent, str]] = {
    "finished": ("concluded_well", "all steps were trained and the results are here"),
    "stopped_by_user": ("concluded_early", "stopped on request"),
    "cap_reached": ("concluded_early", "the cost or time cap was reached"),
    "create_failed": ("concluded_badly", "the machine could not be rented"),
    "no_capacity": ("concluded_badly", "nothing of that kind could be rented at the planned price"),
    "no_balance": ("concluded_badly", "the account at the provider has no money left"),
    "price_rose": ("concluded_badly", "the machine costs more than its offer said, and was given back"),
    "boot_timeout": ("concluded_badly", "the machine did not come up in time"),
    "bootstrap_failed": ("concluded_badly", "the machine could not be prepared"),
    "machine_lost": ("concluded_badly", "the machine went away during the run"),
    "machine_unfit": ("concluded_badly", "the machine is not what its offer said, and was given back"),
    "machine_unreachable": ("concluded_badly", "the machine did not answer any more, and was given back"),
    "interrupted": ("concluded_badly", "the provider took the machine away"),
    "host_key_changed": ("concluded_badly", "the machine showed another SSH host key: nothing more was sent to it"),
    "disk_full": ("concluded_badly", "the machine's disk took no more"),
    "lease_ran_out": ("concluded_early", "no controller was heard of for the lease's time; the last checkpoint is here"),
    "trainer_stalled": ("concluded_badly", "the trainer said nothing for a long time"),
    "supervisor_lost": ("concluded_badly", "the supervisor on the machine died; what was there came home, and the machine was ended"),
    "trainer_refused": ("concluded_badly", "the trainer refused its configuration or data"),
    "trainer_crashed": ("concluded_badly", "the trainer ended unexpectedly"),
    "loss_not_finite": ("concluded_badly", "the loss became infinite or not a number"),
    "result_missing": ("concluded_badly", "the trainer ended without a readable result, or it did not come home whole"),
}
"""Why a run ended: the event that concludes it, and the reason in words."""

ENDINGS: dict[Reason, Literal["finished", "stopped", "interrupted"]] = {
    "finished": "finished",
    "stopped_by_user": "stopped",
    "cap_reached": "stopped",
    "machine_lost": "interrupted",
}
"""How a rental's work ended, by its run's reason; any other reason is a failure."""


WAITED_FOR: tuple[Reason, ...] = ("finished", "stopped_by_user")
"""After these a machine that is out of reach for a moment is waited for: what the user wants is on it."""


class IllegalTransition(RuntimeError):
    """An event that its state does not know: a bug, never a user's mistake."""


def next_run_state(state: RunState, event: RunEvent) -> RunState:
    """Return the run's next state. Raises IllegalTransition for a pair that the table does not have."""
    try:
        return RUN_TABLE[state, event]
    except KeyError:
        raise IllegalTransition(f"a run that is {state} cannot take {event!r}") from None


def next_rental_state(state: RentalState, event: RentalEvent) -> RentalState:
    """Return the rental's next state. Raises IllegalTransition for a pair that the table does not have."""
    try:
        return RENTAL_TABLE[state, event]
    except KeyError:
        raise IllegalTransition(f"a rental that is {state} cannot take {event!r}") from None

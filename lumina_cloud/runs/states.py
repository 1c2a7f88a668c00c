"""The states of a run and of a rental: one table each, and nothing else changes a state.

A run's `reason` is one of a closed list, and decides in which state it ends.
"""

from __future__ import annotations

from typing import Literal

RunState = Literal["planned", "provisioning", "preparing", "training", "finishing", "succeeded", "failed", "stopped"]
RunEvent = Literal[
    "launch", "machine_ready", "training_began", "work_ended", "concluded_well", "concluded_badly", "concluded_early", "resume"
]
RentalState = Literal["intended", "creating", "booting", "ready", "terminating", "ended", "lost"]
RentalEvent = Literal["create", "created", "ready", "terminate", "gone", "abandoned"]

ACTIVE: tuple[RunState, ...] = ("provisioning", "preparing", "training", "finishing")
"""States in which money may be spent."""
FINAL: tuple[RunState, ...] = ("succeeded", "failed", "stopped")
RESUMABLE: tuple[RunState, ...] = ("failed", "stopped")

RUN_TABLE: dict[tuple[RunState, RunEvent], RunState] = {
    ("planned", "launch"): "provisioning",
    ("provisioning", "machine_ready"): "preparing",
    ("provisioning", "work_ended"): "finishing",
    ("preparing", "training_began"): "training",
    ("preparing", "work_ended"): "finishing",
    ("training", "work_ended"): "finishing",
    ("finishing", "concluded_well"): "succeeded",
    ("finishing", "concluded_badly"): "failed",
    ("finishing", "concluded_early"): "stopped",
    ("failed", "resume"): "provisioning",
    ("stopped", "resume"): "provisioning",
}

RENTAL_TABLE: dict[tuple[RentalState, RentalEvent], RentalState] = {
    ("intended", "create"): "creating",
    # A create that may have happened is repeated only after its tag was looked up.
    ("creating", "create"): "creating",
    ("creating", "created"): "booting",
    ("booting", "ready"): "ready",
    ("booting", "terminate"): "terminating",
    ("ready", "terminate"): "terminating",
    ("terminating", "gone"): "ended",
    ("intended", "abandoned"): "ended",
    ("creating", "abandoned"): "ended",
}

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
    "result_missing": ("concluded_badly", "the trainer ended without a readable result"),
}
"""Why a run ended: the event that concludes it, and the reason in words."""

ENDINGS: dict[Reason, Literal["finished", "stopped", "interrupted"]] = {
    "finished": "finished",
    "stopped_by_user": "stopped",
    "cap_reached": "stopped",
    "machine_lost": "interrupted",
}
"""How a rental's work ended, by its run's reason; any other reason is a failure."""


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

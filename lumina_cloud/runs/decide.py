"""What to do next with a run: a pure function of what is known about it.

The controller gathers `Facts`, asks `decide`, does what it is told, and asks again. Since nothing is remembered between two
questions, a controller that dies can be replaced at any point by the next command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lumina_cloud.runs.states import Reason, RentalState, RunState

Machine = Literal["unknown", "creating", "running", "stopped", "gone"]
Action = Literal["nothing", "wait", "intend", "create", "abandon", "mark_ready", "ship", "mark_training", "ask_to_stop", "end", "conclude"]

BOOT_DEADLINE_SECONDS = 300.0
"""A machine that has not come up by then is given back."""

TRAINER_STOPPED_EARLY = 75
TRAINER_REFUSED = 2
TRAINER_NOT_FINITE = 3


@dataclass(frozen=True)
class Exit:
    """How the trainer ended, as the supervisor on the box wrote it."""

    returncode: int
    reason: str
    """`finished`, `stopped`, `deadline` or `crashed`."""


@dataclass(frozen=True)
class Facts:
    """What is known about a run at this moment."""

    run: RunState
    stop_requested: bool = False
    rental: RentalState | None = None
    """State of the newest rental, None when there is none."""
    machine: Machine = "unknown"
    booting_seconds: float = 0.0
    started: bool = False
    """The supervisor was started on the box."""
    training: bool = False
    """The trainer has reported a first step."""
    exit: Exit | None = None
    supervised: bool = True
    """The supervisor, once started, is still there. Without it nobody stops the trainer or writes down how it ended."""
    overdue: bool = False
    """The machine has lived longer than its cap allows: its own supervisor should have ended it."""


@dataclass(frozen=True)
class Decision:
    """One action; `reason` is set when it ends the run."""

    action: Action
    reason: Reason | None = None


def decide(facts: Facts) -> Decision:
    """Return the one next thing to do."""
    match facts.run:
        case "provisioning":
            return _provisioning(facts)
        case "preparing" | "training":
            return _working(facts)
        case "finishing":
            return Decision("conclude")
        case _:
            return Decision("nothing")


def _provisioning(facts: Facts) -> Decision:
    match facts.rental:
        case None | "ended" | "lost":
            return Decision("end", "stopped_by_user") if facts.stop_requested else Decision("intend")
        case "intended" | "creating":
            return Decision("abandon", "stopped_by_user") if facts.stop_requested else Decision("create")
        case "booting":
            return _booting(facts)
        case _:
            return Decision("end", "machine_lost")


def _booting(facts: Facts) -> Decision:
    if facts.stop_requested:
        return Decision("end", "stopped_by_user")
    if facts.machine == "running":
        return Decision("mark_ready")
    if facts.machine in ("stopped", "gone"):
        return Decision("end", "machine_lost")
    return Decision("end", "boot_timeout") if facts.booting_seconds > BOOT_DEADLINE_SECONDS else Decision("wait")


def _working(facts: Facts) -> Decision:
    if facts.exit is not None:
        return Decision("end", outcome(facts.exit))
    if facts.machine in ("stopped", "gone"):
        return Decision("end", "stopped_by_user" if facts.stop_requested and not facts.started else "machine_lost")
    if facts.overdue:
        return Decision("end", "cap_reached")
    if not facts.started:
        return Decision("end", "stopped_by_user") if facts.stop_requested else Decision("ship")
    if not facts.supervised:
        return Decision("end", "stopped_by_user" if facts.stop_requested else "supervisor_lost")
    if facts.stop_requested:
        return Decision("ask_to_stop")
    if facts.run == "preparing" and facts.training:
        return Decision("mark_training")
    return Decision("wait")


def outcome(ended: Exit) -> Reason:
    """Return why the run ended, from how the trainer did. A run that finished just before it was to stop has finished."""
    if ended.returncode == 0:
        return "finished"
    if ended.reason == "stopped":
        return "stopped_by_user"
    if ended.reason == "deadline":
        return "cap_reached"
    if ended.returncode == TRAINER_REFUSED:
        return "trainer_refused"
    if ended.returncode == TRAINER_NOT_FINITE:
        return "loss_not_finite"
    return "trainer_crashed"

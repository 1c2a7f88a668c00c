"""What to do next with a run: a pure function of what is known about it.

The controller gathers `Facts`, asks `decide`, does what it is told, and asks again. Since nothing is remembered between two
questions, a controller that dies can be replaced at any point by the next command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lumina_cloud.runs.states import Action, Reason, RentalState, RunState

Machine = Literal["unknown", "creating", "running", "stopped", "gone"]

BOOT_DEADLINE_SECONDS = 300.0
"""A machine that has not come up by then is given back, where nothing else was said."""

UNREACHABLE_SECONDS = 300.0
"""A machine that its provider calls running, and that answers to nobody for that long, is given back."""

LEAST_UNREACHABLE_SECONDS = 90.0

STALL_SECONDS = 900.0
"""A trainer that says nothing for that long hangs."""

TRAINER_STOPPED_EARLY = 75
TRAINER_REFUSED = 2
TRAINER_NOT_FINITE = 3


@dataclass(frozen=True)
class Exit:
    """How the trainer ended, as the supervisor on the box wrote it."""

    returncode: int
    reason: str
    """`finished`, `stopped`, `deadline`, `lease` or `crashed`."""


@dataclass(frozen=True)
class Facts:
    """What is known about a run at this moment."""

    run: RunState
    stop_requested: bool = False
    rental: RentalState | None = None
    """State of the newest rental, None when there is none."""
    machine: Machine = "unknown"
    interrupted: bool = False
    """Its provider took it away."""
    price_rose: bool = False
    """While it boots it costs more than its offer said."""
    booting_seconds: float = 0.0
    boot_deadline_seconds: float = BOOT_DEADLINE_SECONDS
    key_changed: bool = False
    """It shows another host key than the known one."""
    unreachable_seconds: float = 0.0
    """How long it has answered to nobody, though its provider calls it running."""
    refuses_writes: bool = False
    """Its disk takes nothing any more."""
    silent_seconds: float = 0.0
    """How long the trainer's heartbeat has not moved."""
    started: bool = False
    """The supervisor was started on the box."""
    training: bool = False
    """The trainer has reported a first step."""
    exit: Exit | None = None
    lease_ran_out: bool = False
    """No controller had looked at the machine for its lease's time."""
    cap_near: bool = False
    """The machine's own guard had reason to end it: its time or money was over."""
    supervised: bool = True
    """The supervisor, once started, is still there. Without it nobody stops the trainer or writes down how it ended."""
    results_seconds: float | None = None
    """How long ago the work ended whose results the machine still has, None where nothing is waited for."""
    limits_behind: bool = False
    """The run's limits changed since its machine was told of them."""
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
            return _finishing(facts)
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
    if facts.machine in ("stopped", "gone"):
        if facts.interrupted or not facts.lease_ran_out:
            return Decision("end", "interrupted" if facts.interrupted else "machine_lost")
        # It ended by itself, as it was told, since nobody was there: nor is anybody to drive another.
        return Decision("end", "lease_ran_out")
    if facts.cap_near:
        # What is left pays for its end, and for no step any more.
        return Decision("end", "cap_reached")
    if facts.price_rose:
        return Decision("end", "price_rose")
    late = facts.booting_seconds > facts.boot_deadline_seconds
    if facts.machine == "running" and not facts.key_changed and not facts.unreachable_seconds:
        return Decision("mark_ready")
    if late:
        return Decision("end", "host_key_changed" if facts.key_changed else "boot_timeout")
    # A host key that we put there ourselves takes effect a moment after the machine's own: until then nothing is sent.
    return Decision("wait")


def _working(facts: Facts) -> Decision:
    if facts.exit is not None:
        return Decision("end", outcome(facts.exit))
    over = _over(facts)
    if over is not None:
        return Decision("end", over)
    if facts.unreachable_seconds:
        return _unreachable(facts)
    if not facts.started:
        return Decision("end", "stopped_by_user") if facts.stop_requested else Decision("ship")
    if not facts.supervised:
        return Decision("end", "stopped_by_user" if facts.stop_requested else "supervisor_lost")
    if facts.stop_requested:
        return Decision("ask_to_stop")
    if facts.limits_behind:
        return Decision("tell_limits")
    return Decision("mark_training") if facts.run == "preparing" and facts.training else Decision("wait")


def _over(facts: Facts) -> Reason | None:
    """Return why nothing more can come of the machine, None while something can."""
    if facts.machine in ("stopped", "gone"):
        return _lost(facts)
    if facts.key_changed:
        return "host_key_changed"
    if facts.overdue:
        return "cap_reached"
    if facts.refuses_writes:
        return "disk_full"
    return "trainer_stalled" if facts.silent_seconds > STALL_SECONDS else None


def _lost(facts: Facts) -> Reason:
    if facts.stop_requested and not facts.started:
        return "stopped_by_user"
    if facts.interrupted:
        return "interrupted"
    # Where its provider's API is out of reach, a machine that ends itself is switched off: `stopped` is as much its guard's doing.
    if facts.cap_near:
        return "cap_reached"
    return "lease_ran_out" if facts.lease_ran_out else "machine_lost"


def _finishing(facts: Facts) -> Decision:
    """A machine that is out of reach for a moment still has what it made; its cap does not wait for that."""
    waits = facts.results_seconds is not None and facts.results_seconds < _patience(facts)
    if waits and facts.machine == "running" and facts.unreachable_seconds and not facts.key_changed and not facts.cap_near:
        return Decision("wait")
    return Decision("conclude")


def _patience(facts: Facts) -> float:
    """Return how long a machine that answers to nobody is waited for: one that comes up quickly is also back quickly, if at all."""
    return min(UNREACHABLE_SECONDS, max(LEAST_UNREACHABLE_SECONDS, facts.boot_deadline_seconds))


def _unreachable(facts: Facts) -> Decision:
    """A machine may be out of reach for a while: it trains on, and its guard knows when to end."""
    if facts.unreachable_seconds > _patience(facts):
        return Decision("end", "stopped_by_user" if facts.stop_requested else "machine_unreachable")
    return Decision("wait")


def outcome(ended: Exit) -> Reason:
    """Return why the run ended, from how the trainer did. A run that finished just before it was to stop has finished."""
    if ended.returncode == 0:
        return "finished"
    if ended.reason == "stopped":
        return "stopped_by_user"
    if ended.reason == "deadline":
        return "cap_reached"
    if ended.reason == "lease":
        return "lease_ran_out"
    if ended.returncode == TRAINER_STOPPED_EARLY:
        # It saved and left in good order, and nobody of ours had asked: the machine was told to end.
        return "interrupted"
    if ended.returncode == TRAINER_REFUSED:
        return "trainer_refused"
    if ended.returncode == TRAINER_NOT_FINITE:
        return "loss_not_finite"
    return "trainer_crashed"

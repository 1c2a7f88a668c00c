"""Faults by name: what each one is, and which of them are armed.

A request fault strikes matching API calls, an instance fault strikes an instance when it is created or some seconds after it began to
run, a standing fault changes how the world looks as long as it is armed. All chance comes from the world's seed.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

Kind = Literal["request", "instance", "standing", "at once"]


@dataclass(frozen=True)
class Fault:
    """One kind of trouble."""

    name: str
    kind: Kind
    what: str
    calls: tuple[str, ...] = ()
    """API calls that it strikes when the user names none; empty for all."""
    times: int | None = 1
    seconds: float = 0.0
    at_seconds: float = 0.0
    factor: float = 1.0


CREATE = ("create",)
END = ("terminate",)
CATALOGUE = (
    Fault("lost_create_before", "request", "The connection breaks before a create reaches the provider.", CREATE),
    Fault("lost_create_after", "request", "The instance is created, and the reply is lost.", CREATE),
    Fault(
        "create_fails_leaves_stopped", "request", "A create answers with an error and leaves a stopped contract that bills storage.", CREATE
    ),
    Fault("duplicated_create", "request", "One create makes two instances of the same name and answers with one.", CREATE),
    Fault("rate_limit_storm", "request", "429 to every call.", times=20),
    Fault("error_500", "request", "500, and nothing was done.", times=3),
    Fault("error_500_after_effect", "request", "500, though it was done.", ("create", "terminate")),
    Fault("timeout", "request", "It is done, but the reply never comes.", seconds=300),
    Fault("timeout_before", "request", "Nothing is done, and no reply comes.", seconds=300),
    Fault("slow_loris", "request", "It is done, and the reply drips in, a byte at a time.", seconds=300),
    Fault("malformed_body", "request", "It is done, and the reply breaks off in the middle of its JSON."),
    Fault("html_200", "request", "A proxy's HTML page with status 200, and nothing was done."),
    Fault("empty_list", "request", "The list of instances is empty, though there are some.", ("list",), times=3),
    Fault("retired_endpoint", "request", "410: the endpoint is gone for good.", times=None),
    Fault("terminate_ignored", "request", "A terminate answers with success and is forgotten.", END),
    Fault("terminate_lies", "request", "A terminate answers with success, and nothing happens for a minute.", END, seconds=60),
    Fault("slow_boot", "instance", "The instance takes two minutes longer to boot.", seconds=120),
    Fault("never_boot", "instance", "The instance never gets out of booting."),
    Fault("ssh_refused", "instance", "The instance is running, and its SSH port refuses."),
    Fault("host_key_changed", "instance", "Another host key answers at the instance's address from some moment on.", at_seconds=5),
    Fault("wrong_gpu", "instance", "The machine has another GPU than the offer said."),
    Fault("slow_download", "instance", "The machine's network is far slower than the offer said: 64 KiB a second."),
    Fault("disk_full", "instance", "Every write to the machine's disk fails from some moment on.", at_seconds=5),
    Fault("preempted", "instance", "The instance is taken away without a warning.", at_seconds=10),
    Fault(
        "preempted_with_warning",
        "instance",
        "The instance gets SIGTERM, and five seconds later it is taken away.",
        at_seconds=10,
        seconds=5,
    ),
    Fault("host_death", "instance", "The host dies with all that was on it.", at_seconds=10),
    Fault("network_partition", "instance", "The machine works on, but nobody reaches it and it reaches nobody.", at_seconds=5, seconds=60),
    Fault("box_clock_skew", "instance", "The clock of the machine is wrong by a day.", factor=86_400),
    Fault("listing_lag", "standing", "A list shows the instances as they were some seconds ago.", times=None, seconds=20),
    Fault(
        "clock_skew",
        "standing",
        "The provider's clock is wrong by a day, in its timestamps and its Date header.",
        times=None,
        seconds=86_400,
    ),
    Fault("price_rise", "at once", "Every price doubles, that of the instances that run too.", factor=2.0),
    Fault("balance_gone", "at once", "The account's credit is used up."),
)
BY_NAME = {fault.name: fault for fault in CATALOGUE}
CALLS = ("offers", "create", "list", "get", "terminate", "stop", "start", "label", "balance", "charges", "account", "keys", "logs")
PROVIDERS = ("vastai", "runpod", "lambda")


@dataclass(frozen=True)
class Armed:
    """A fault that waits for its occasion."""

    name: str
    provider: str | None = None
    """None for all three."""
    call: str | None = None
    """One API call; None for those that the fault is about."""
    times: int | None = None
    """How often it strikes; the fault's own number when None, for ever when -1."""
    after: int = 0
    """Occasions that it lets pass before."""
    chance: float = 1.0
    seconds: float | None = None
    at_seconds: float | None = None
    factor: float | None = None

    @property
    def fault(self) -> Fault:
        """Return what it is."""
        return BY_NAME[self.name]

    @property
    def lasting(self) -> float:
        """Return its seconds."""
        return self.fault.seconds if self.seconds is None else self.seconds

    @property
    def delay(self) -> float:
        """Return how many seconds after an instance began to run it strikes."""
        return self.fault.at_seconds if self.at_seconds is None else self.at_seconds

    @property
    def by(self) -> float:
        """Return its factor."""
        return self.fault.factor if self.factor is None else self.factor

    def matches(self, provider: str, call: str) -> bool:
        """Tell whether a call is an occasion."""
        if self.provider not in (None, provider):
            return False
        wanted = (self.call,) if self.call else self.fault.calls
        return not wanted or call in wanted


def check(armed: Armed) -> Armed:
    """Return it. Raises ValueError for a name, provider, call or number that cannot be meant."""
    if armed.name not in BY_NAME:
        raise ValueError(f"unknown fault {armed.name!r}; known: {', '.join(BY_NAME)}")
    if armed.provider not in (None, *PROVIDERS):
        raise ValueError(f"unknown provider {armed.provider!r}; known: {', '.join(PROVIDERS)}")
    if armed.call not in (None, *CALLS):
        raise ValueError(f"unknown call {armed.call!r}; known: {', '.join(CALLS)}")
    if not 0 <= armed.chance <= 1:
        raise ValueError(f"chance is {armed.chance}, but must lie between 0 and 1")
    return armed


def from_mapping(given: dict[str, Any]) -> Armed:
    """Read one fault of a scenario. Raises ValueError."""
    known = {one.name for one in fields(Armed)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"unknown key {unknown[0]!r} of a fault; known: {', '.join(sorted(known))}")
    if not isinstance(given.get("name"), str):
        raise ValueError(f"a fault needs a name: {given!r}")
    numbers = {"times", "after", "chance", "seconds", "at_seconds", "factor"}
    for key in numbers & set(given):
        if given[key] is not None and (isinstance(given[key], bool) or not isinstance(given[key], int | float)):
            raise ValueError(f"{key} of fault {given['name']!r} is {given[key]!r}, but must be a number")
    return check(Armed(**given))


def read_scenario(text: str) -> tuple[dict[str, Any], list[Armed]]:
    """Read a scenario file: settings of the world, and `[[fault]]` tables. Raises ValueError."""
    table = tomllib.loads(text)
    faults = table.pop("fault", [])
    if not isinstance(faults, list):
        raise ValueError("faults of a scenario are written as [[fault]] tables")
    unknown = sorted(set(table) - {"seed", "market", "delays", "deposit_usd", "rate_limits", "switches", "time_scale"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} of a scenario")
    return table, [from_mapping(dict(one)) for one in faults]


class FaultBook:
    """The armed faults, in the order in which they were armed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.armed: list[Armed] = []

    def arm(self, faults: Iterable[Armed]) -> None:
        """Add faults; a number of times that was left open becomes the fault's own."""
        for armed in faults:
            times = armed.fault.times if armed.times is None else armed.times
            self.armed.append(replace(check(armed), times=-1 if times is None else times))

    def clear(self, name: str | None = None) -> None:
        """Disarm one fault, or all."""
        self.armed = [one for one in self.armed if name is not None and one.name != name]

    def strike(self, provider: str, call: str) -> Armed | None:
        """Return the request fault that strikes this call, and count it."""
        for index, armed in enumerate(self.armed):
            if armed.fault.kind == "request" and armed.matches(provider, call) and self._takes(index):
                return armed
        return None

    def afflict(self, provider: str) -> list[Armed]:
        """Return the instance faults that a new instance gets, and count them."""
        struck = []
        for index, armed in enumerate(list(self.armed)):
            if armed.fault.kind == "instance" and armed.matches(provider, "create") and self._takes(index):
                struck.append(armed)
        self.armed = [one for one in self.armed if one.times != 0]
        return struck

    def standing(self, name: str, provider: str) -> Armed | None:
        """Return the standing fault of that name, if it is armed for that provider."""
        return next((one for one in self.armed if one.name == name and one.provider in (None, provider)), None)

    def _takes(self, index: int) -> bool:
        armed = self.armed[index]
        if armed.times == 0:
            return False
        if armed.after > 0:
            self.armed[index] = replace(armed, after=armed.after - 1)
            return False
        if armed.chance < 1 and self._rng.random() >= armed.chance:
            return False
        if armed.times is not None and armed.times > 0:
            self.armed[index] = replace(armed, times=armed.times - 1)
        return True

"""Starting a run from a page: what it is expected to cost first, then the most it may cost, then the rent."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.api import planning
from lumina_cloud.api.launching import Limits, terms_from
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.api.requests import Options, workload_request
from lumina_cloud.api.views import ENDED
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lumina_cloud.api.documents.of_plans import PlanRow


@dataclass(frozen=True)
class Wanted:
    """One row of the planner, as its link names it."""

    model: str
    arch: str
    tokens: str
    provider: str
    gpu: str
    count: int
    interruptible: bool

    @classmethod
    def of(cls, fields: Mapping[str, Sequence[str]]) -> Wanted:
        """Read a query or a form. Raises UsageError where a field is missing or cannot be meant."""
        said = {name: values[0] for name, values in fields.items()}
        missing = [name for name in ("model", "arch", "provider", "gpu", "count") if not said.get(name)]
        # Python refuses to read a number of thousands of digits.
        if missing or not said["count"].isdecimal() or not 1 <= int(said["count"][:5]) <= 1024:
            raise UsageError("the address does not name a machine and a model", "choose a row on the planner's page")
        return cls(
            said["model"], said["arch"], said.get("tokens", ""), said["provider"], said["gpu"], int(said["count"]),
            said.get("interruptible") == "1",
        )  # fmt: skip

    @property
    def options(self) -> Options:
        """What of it is about the work."""
        return Options(arch=self.arch, tokens=self.tokens or None)

    @property
    def machine(self) -> MachineFilter:
        """What of it is about the machine."""
        return MachineFilter("local") if self.provider == "local" else MachineFilter(self.provider, self.gpu, self.count)


def expected(lumina: Lumina, wanted: Wanted) -> PlanRow:
    """Return the planner's row. Raises UsageError where there is none, or where the model does not fit."""
    document = planning.make_plan(lumina.session, workload_request(wanted.model, wanted.options), wanted.machine).document
    for row in document.rows:
        if row.fits and row.interruptible == wanted.interruptible:
            return row
    raise UsageError(f"{wanted.model} {wanted.arch} does not fit there", "choose a row on the planner's page")


def cap_of(text: str) -> Decimal:
    """Return the most that a run may cost. Raises UsageError for no amount above 0."""
    try:
        cap = money.usd(text.strip().lstrip("$"))
    except ValueError:
        cap = Decimal(0)
    if cap <= 0:
        raise UsageError(f"the most that it may cost is {text!r}", "an amount of dollars above 0, e.g. 5")
    return cap


def launch(wanted: Wanted, cap: Decimal, intent: str) -> str:
    """Write a run down and leave it to the background. Returns its name. Raises whatever `lumina launch` refuses with.

    Whatever fails after the run is written down, and whoever asks again with the same intent, also of pages that were started anew: the
    ledger has it, and the answer is that run.
    """
    # Its own connection: the markets are asked here, and no page waits for them.
    with Lumina() as lumina:
        run = lumina.begun_for(intent)
        if run is None:
            terms = terms_from(None, None, [], accept_unguarded=False, interruptible=wanted.interruptible)
            request = workload_request(wanted.model, wanted.options)
            prepared = lumina.prepare(request, wanted.machine, Limits(max_cost=cap, max_hours=None), None, terms)
            run = lumina.begin(prepared, intent)
        if run.state not in ENDED:
            lumina.detach(run.run_id)
    return run.run_id

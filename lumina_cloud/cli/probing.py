"""`lumina plan --probe`: what will be measured and where, at most for how much, and the plan by what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.cli import output
from lumina_cloud.core.errors import RunFailed, RunStopped

if TYPE_CHECKING:
    from decimal import Decimal

    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.planning import MachineFilter, Planned
    from lumina_cloud.ledger import RunRecord
    from lumina_cloud.runs.terms import Terms
    from lumina_cloud.runs.workloads import WorkloadRequest


def probed(
    lumina: Lumina,
    request: WorkloadRequest,
    wanted: MachineFilter,
    planned: Planned,
    terms: Terms,
    *,
    max_cost: Decimal | None,
    yes: bool,
    live: bool,
    taught: bool,
) -> Planned:
    """Measure some real steps of what a plan recommends, in a run of its own where that is rented, and return the plan made again."""
    from lumina_cloud.cli import launch

    prepared = lumina.prepare_probe(request, planned, max_cost, terms)
    run = None
    if prepared is None:
        output.tell("measuring some real steps on this computer")
    else:
        launch.confirm_rental(prepared, "rent it for a probe?", yes=yes)
        run = _followed(lumina, lumina.begin(prepared).run_id)
    return lumina.probe(request, wanted, planned, run, live=live, taught=taught)


def _followed(lumina: Lumina, run_id: str) -> RunRecord:
    """Return the run of a probe that came to its end. Raises RunFailed or RunStopped for one that did not."""
    from lumina_cloud.cli.following import follow_run, tell_log_tail

    run = follow_run(lumina, run_id)
    if run.state == "succeeded":
        return run
    if run.state == "failed":
        tell_log_tail(run)
    kind = RunFailed if run.state == "failed" else RunStopped
    raise kind(f"the probe {run_id} is {run.state}: {lumina.why_ended(run)}", f"lumina results {run_id}, or the same without --probe")

"""A probe on a rented machine: a run like any other, of a few steps, that saves nothing, under a cap of cents.

So it has all that guards a run: intent first, the machine's own guard, reconciliation, the ledger. What it measured is read from the ledger
too: a probe whose command was killed counts in the next plan all the same.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.api import launching, planning, probing, teaching
from lumina_cloud.api.launching import Limits, Purpose
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.launching import Prepared
    from lumina_cloud.api.probing import Probe
    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import Ledger, RunRecord
    from lumina_cloud.planner.plan import Row
    from lumina_cloud.runs.terms import Terms
    from lumina_cloud.runs.workloads import WorkloadRequest

MOST_USD = Decimal("0.50")
"""What a probe may cost where nothing else is said."""
_FIXED = ("micro_batch", "zero_stage", "checkpointing", "checkpoint_every", "offload", "expert_parallel", "compile")


def prepare(
    session: Session, request: WorkloadRequest, row: Row, terms: Terms, *, max_cost: Decimal | None, look: planning.Look
) -> Prepared:
    """Plan the probe of a plan's row and pass every check before renting.

    Raises what `launching.prepare` raises: RefusedError where the probe could cost more than its cap.
    """
    short, machine = short_request(request, row), row.machine
    wanted = planning.MachineFilter(machine.provider, machine.gpu.name, machine.count)
    limits = Limits(max_cost=MOST_USD if max_cost is None else max_cost)
    terms = replace(terms, interruptible=machine.interruptible)
    return launching.prepare(session, short, wanted, limits, look=look, purpose=Purpose(labels=(teaching.PROBE,)), terms=terms)


def short_request(request: WorkloadRequest, row: Row) -> WorkloadRequest:
    """Return the request for a few steps in the row's own layout.

    The user's own text stays at home: how fast a machine is does not depend on what it reads, and an upload is paid for.
    """
    config = row.estimate.config
    short = probing.shortened(config, dict(row.estimate.modelled)["tokens_per_second"])
    training, layout = short.training, short.layout
    settings = dict(request.settings)
    for name in ("tokens", "unique_tokens", "global_batch_tokens", "grad_accum", "n_gpus"):
        settings.pop(name, None)
    settings |= {name: str(getattr(layout, name)) for name in _FIXED}
    settings |= {name: str(getattr(training, name)) for name in ("precision", "validation_tokens", "trackers", "measure_seconds")}
    return replace(
        request,
        archs=(row.arch,),
        tokens=str(training.tokens),
        unique_tokens=str(training.unique_tokens),
        epochs=None,
        global_batch=str(training.global_batch_tokens),
        data="stdlib" if Path(config.data.source).is_absolute() else request.data,
        settings=tuple(settings.items()),
    )


def require(ledger: Ledger, run: RunRecord) -> Probe:
    """Return what the run of a probe measured. Raises UsageError for a run that did not get so far."""
    found = teaching.probe_of(ledger, run) if run.state == "succeeded" else None
    if found is None:
        raise UsageError(f"the probe {run.run_id} is {run.state}, and says nothing of speed", f"lumina results {run.run_id}")
    return found

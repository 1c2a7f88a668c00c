"""A probe on a rented machine: a run like any other, of a few steps, that saves nothing, under a cap of cents.

So it has all that guards a run: intent first, the machine's own guard, reconciliation, the ledger. What it measured is read from the ledger
too: a probe whose command was killed counts in the next plan all the same.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from lumina_cloud.api import launching, planning, probing, teaching
from lumina_cloud.api.launching import Limits, Purpose
from lumina_cloud.core import money
from lumina_cloud.core.errors import RefusedError, RunFailed, UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.launching import Prepared
    from lumina_cloud.api.probing import Probe
    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import Ledger, RunRecord
    from lumina_cloud.planner.plan import Row
    from lumina_cloud.runs.terms import Terms
    from lumina_cloud.runs.workloads import WorkloadRequest

LABEL = "probe"
"""That costs can be shown by; what makes a run a probe is that it only measures."""
MOST_USD = Decimal("0.99")
"""The cap of a probe where nothing else is said: its plan's own high, and this at most."""
_FIXED = ("micro_batch", "zero_stage", "checkpointing", "checkpoint_every", "offload", "expert_parallel", "compile")


def prepare(
    session: Session, request: WorkloadRequest, row: Row, terms: Terms, *, max_cost: Decimal | None, look: planning.Look
) -> Prepared:
    """Plan the probe of a plan's row and pass every check before renting.

    Raises what `launching.prepare` raises: RefusedError where the probe is expected to cost more than its cap.
    """
    if max_cost is not None and max_cost <= 0:
        raise UsageError(f"--probe-cost is {money.text(max_cost)}, but must be above 0", "e.g. --probe-cost 0.50")
    if request.init_from is not None:
        raise UsageError(
            "a probe on a rented machine would take the weights of --init-from along, and pay for their upload",
            "plan without --probe, or a model of that shape without --init-from",
        )
    short = short_request(request, row)
    wanted = planning.MachineFilter(row.machine.provider, row.machine.gpu.name, row.machine.count)
    limits = Limits(max_cost=max_cost, ceiling=MOST_USD)
    try:
        return launching.prepare(session, short, wanted, limits, look=look, purpose=Purpose(labels=(LABEL,)), terms=terms)
    except RefusedError as error:
        raise RefusedError(error.message, _in_words_of_plan(error.hint)) from error


def _in_words_of_plan(hint: str) -> str:
    """Return what to type where `plan` was typed: its caps are a probe's, and its tokens are few already."""
    return hint.replace("--max-cost", "--probe-cost").replace(", or train on less (--tokens)", "")


def short_request(request: WorkloadRequest, row: Row) -> WorkloadRequest:
    """Return the request for a few steps in the row's own layout, on the text that every machine has.

    How fast a machine is does not depend on what it reads, an upload is paid for, and so is what a stream waits for.
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
        data="stdlib",
        settings=tuple(settings.items()),
    )


def require(ledger: Ledger, run: RunRecord) -> Probe:
    """Return what the run of a probe measured. Raises RunFailed for one that did not get so far, or says nothing of it."""
    found = teaching.probe_of(ledger, run) if run.state == "succeeded" else None
    if found is not None:
        return found
    what = "came to its end, and does not say how fast it was" if run.state == "succeeded" else f"is {run.state}: nothing was measured"
    raise RunFailed(f"the probe {run.run_id} {what}", f"lumina results {run.run_id} shows it; the same without --probe needs none")

"""What a type checker sees of `from lumina_cloud import …`: read by `make check`, never run."""

from decimal import Decimal
from typing import assert_type

from lumina_cloud import Limits, Lumina, MachineFilter, Planned, Prepared, RunRecord, WorkloadRequest
from lumina_cloud.api.documents.of_money import CostsDocument


def spend(request: WorkloadRequest) -> CostsDocument:
    """Plan, launch, follow and count, each with the type that its next step takes."""
    with Lumina() as lumina:
        assert_type(lumina.plan(request, MachineFilter(gpu="4090")), Planned)
        prepared = assert_type(lumina.prepare(request, MachineFilter(), Limits(max_cost=Decimal(1))), Prepared)
        run = assert_type(lumina.launch(prepared), RunRecord)
        assert_type(lumina.follow(run.run_id), RunRecord)
        return assert_type(lumina.costs("model"), CostsDocument)

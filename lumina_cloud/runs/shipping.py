"""What goes onto a machine, and how the trainer is started there: the bundle, the data, what an earlier rental left behind."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trainer.config
from lumina_cloud.remote import bootstrap, bundle
from lumina_cloud.runs.caps import GRACE_SECONDS, seconds_left_on_box

if TYPE_CHECKING:
    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context

LINGER_SECONDS = 60.0
"""How long a machine waits for its results to be fetched before it switches itself off."""


def was_started(box: Box) -> bool:
    """Whether the supervisor was started on this machine."""
    return box.read(bootstrap.STARTED_MARKER) is not None or box.read("exit.json") is not None


def ship(context: Context, run: RunRecord, rental: RentalRecord, box: Box) -> None:
    """Send the bundle and start the trainer. Raises ProviderError or RefusedError with what the machine said."""
    context.reporter.said(run.run_id, "sending trainer, configuration and data")
    already = (context.clock.now() - rental.intended_at).total_seconds()
    seconds = min(
        seconds_left_on_box(run.usd_cap, context.ledger.spent(run.run_id), run.usd_per_hour) - already,
        run.seconds_cap,
    )
    folder = Path(run.folder)
    with tempfile.TemporaryDirectory(prefix="lumina-bundle-") as staging:
        built = bundle.build(
            Path(staging),
            config_json=run.config_json,
            trainer=Path(trainer.config.__file__).parent,
            data=Path(run.data_path) if run.data_path else None,
            previous=folder if (folder / "checkpoints").is_dir() else None,
            job=bundle.Job(
                python=context.python,
                seconds_cap=max(1.0, math.floor(seconds)),
                grace_seconds=GRACE_SECONDS,
                linger_seconds=LINGER_SECONDS,
            ),
        )
        bundle.ship(box, built, python=context.python)
    bootstrap.start(box, python=context.python)
    with context.ledger.transaction() as tx:
        tx.add_event("run.started_on_machine", run_id=run.run_id, rental_id=rental.rental_id)
    context.reporter.said(run.run_id, "trainer started")

"""What goes onto a machine, and how the trainer is started there: the bundle, the data, what an earlier rental left behind."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trainer.config
from lumina_cloud.core.errors import DataError
from lumina_cloud.remote import bootstrap, bundle
from lumina_cloud.runs import weights_to_start_from, workloads
from lumina_cloud.runs.caps import GRACE_SECONDS, RESERVE_SECONDS, seconds_left_on_box

if TYPE_CHECKING:
    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context

LINGER_SECONDS = 60.0
"""How long a machine waits for its results to be fetched before it switches itself off; less where its cap comes first."""

_ASK_SECONDS = 30.0


def was_started(box: Box) -> bool:
    """Whether the supervisor was started on this machine."""
    return box.read(bootstrap.STARTED_MARKER) is not None or box.read("exit.json") is not None


def is_supervised(box: Box, python: str) -> bool:
    """Whether the supervisor that was started on this machine is still there. Raises ProviderError when it cannot be asked."""
    return box.run([python, "bundle/supervisor.py", "--there"], timeout=_ASK_SECONDS).returncode == 0


def ship(context: Context, run: RunRecord, rental: RentalRecord, box: Box) -> None:
    """Send the bundle and start the trainer. Raises ProviderError or RefusedError with what the machine said."""
    context.reporter.said(run.run_id, "sending trainer, configuration and data")
    already = (context.clock.now() - rental.intended_at).total_seconds()
    seconds = min(
        seconds_left_on_box(run.usd_cap, context.ledger.spent(run.run_id), run.usd_per_hour) - already,
        run.seconds_cap,
    )
    folder = Path(run.folder)
    start_from = trainer.config.from_json(run.config_json).init_from
    with tempfile.TemporaryDirectory(prefix="lumina-bundle-") as staging:
        built = bundle.build(
            Path(staging),
            config_json=run.config_json,
            trainer=Path(trainer.config.__file__).parent,
            data=_data_files(Path(run.data_path)) if run.data_path else (),
            weights=weights_to_start_from.files(Path(start_from)) if start_from else (),
            previous=folder if (folder / "checkpoints").is_dir() else None,
            job=bundle.Job(
                python=context.python,
                seconds_cap=max(1.0, math.floor(seconds)),
                grace_seconds=GRACE_SECONDS,
                linger_seconds=LINGER_SECONDS,
                seconds_off=max(1.0, math.floor(seconds)) + RESERVE_SECONDS,
            ),
        )
        bundle.ship(box, built, python=context.python)
    bootstrap.start(box, python=context.python)
    with context.ledger.transaction() as tx:
        tx.add_event("run.started_on_machine", run_id=run.run_id, rental_id=rental.rental_id)
    context.reporter.said(run.run_id, "trainer started")


def _data_files(data: Path) -> tuple[tuple[Path, str], ...]:
    """Return the text files of a path and their names on the machine: numbered, so that no name from here can be trouble there.

    Raises DataError when they are gone.
    """
    files = tuple(workloads.text_files(data))
    if not files:
        raise DataError(f"{data} holds no text any more", "give the file or folder of the text with --data")
    return tuple((file, f"data/{number:06d}{file.suffix.lower()}") for number, file in enumerate(files, 1))

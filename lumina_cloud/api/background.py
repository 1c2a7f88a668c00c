"""A small process that finishes a run when nobody follows it any more: it renews the machine's lease and drives the run to its end.

`python -m lumina_cloud.api.background RUN`. It keeps none of its starter's streams, and its lines go to a log in the home folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from lumina_cloud.core.clock import SystemClock, iso
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import CredentialsError, LuminaError, ProviderError

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.api.following import Progress
    from lumina_cloud.api.settings import Settings

LONGEST_PAUSE_SECONDS = 60.0


def start(settings: Settings, run_id: str) -> int:
    """Start the process that finishes a run; return its id. Whatever happens to the starter, it goes on."""
    log_file = log_of(settings.home, run_id)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log, edge("background.start"):
        child = subprocess.Popen(
            [sys.executable, "-m", "lumina_cloud.api.background", run_id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=settings.home,
            env=dict(os.environ),
            start_new_session=True,
            close_fds=True,
        )
        sent()
    # It outlives us on purpose: Popen is not to wait for it, nor to warn that we did not.
    child.returncode = 0
    return child.pid


class Log:
    """Writes what happens into the log, a line each."""

    def line(self, text: str) -> None:
        """Write one line."""
        sys.stdout.write(f"{iso(SystemClock().now())} {text}\n")
        sys.stdout.flush()

    def progress(self, progress: Progress) -> None:
        """Leave progress out: the ledger has it."""


def main(run_id: str) -> None:
    """Finish a run, and leave with the exit code of an error that asking again does not mend."""
    log = Log()
    try:
        finish(run_id, log)
    except LuminaError as error:
        log.line(error.message)
        sys.exit(error.exit_code)


def finish(run_id: str, log: Log) -> None:
    """Drive a run to its end. A provider that fails is asked again, less and less often, for as long as the run is not over.

    Raises another LuminaError.
    """
    from lumina_cloud.api.lumina import Lumina

    pause = 2.0
    with Lumina(log) as lumina:
        while True:
            try:
                run = lumina.follow(run_id)
            except (ProviderError, CredentialsError) as error:
                log.line(f"{error.message} (asking again in {pause:.0f} s)")
                time.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            else:
                log.line(f"{run.run_id} {run.state} {run.reason}")
                return


def log_of(home: Path, run_id: str) -> Path:
    """Return where the process of a run writes."""
    return home / "background" / f"{run_id}.log"


if __name__ == "__main__":
    main(sys.argv[1])

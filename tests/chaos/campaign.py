"""A campaign: many worlds of a few launches each, and their figures in one line."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import stamina

from providers.http import ATTEMPTS
from tests.chaos.world import Outcome, World, split, template

MEMORY = Path("/dev/shm")


def play(launches: int, seed: int, broken: str, out: TextIO | None = None, *, losing: bool = False) -> dict[str, Any]:
    """Play `launches` launches and return their figures. What was found is told on `out` as it is found, with what replays it.

    With `losing` each has one create whose reply is lost or lies, and nothing else befalls it.
    """
    began = time.monotonic()
    names = [f"{'lost-' * losing}{seed}/{number}/{size}" for number, size in enumerate(split(launches, random.Random(f"split {seed}")))]
    outcomes = []
    with _prepared() as (folder, home):
        for number, name in enumerate(names):
            outcome = _world(name, folder / str(number), home, broken)
            outcomes.append(outcome)
            shutil.rmtree(folder / str(number), ignore_errors=True)
            if out is not None:
                _tell(outcome, out)
    return {**figures(outcomes), "sabotage": broken, "seconds": round(time.monotonic() - began, 1)}


def replay(name: str, broken: str, out: TextIO | None = None) -> dict[str, Any]:
    """Play one world again, tell its log on `out`, and return its figures."""
    with _prepared() as (folder, home):
        outcome = _world(name, folder / "0", home, broken)
    if out is not None:
        out.write("\n".join(outcome.log) + "\n")
        _tell(outcome, out)
    return {**figures([outcome]), "sabotage": broken}


def _world(name: str, folder: Path, home: Path, broken: str) -> Outcome:
    """Play the world of a name: `SEED/NUMBER/LAUNCHES`."""
    return World(name, folder, home, int(name.rpartition("/")[2]), broken, losing=name.startswith("lost-")).play()


@contextmanager
def _prepared() -> Iterator[tuple[Path, Path]]:
    """Give a folder for homes, in memory where there is one, and the home that all begin as. Retries wait on no real clock."""
    # Pauses between retries are stamina's own, on the real clock: they are left out. Rate limits wait on the virtual one.
    stamina.set_testing(True, attempts=ATTEMPTS)
    try:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            yield Path(folder), template(Path(folder))
    finally:
        stamina.set_testing(False)


def _tell(outcome: Outcome, out: TextIO) -> None:
    for finding in outcome.findings:
        out.write(f"{outcome.seed} {finding}\n")
    out.flush()


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the figures of worlds together."""
    passed: Counter[str] = sum((o.passed for o in outcomes), Counter())
    killed: Counter[str] = sum((o.killed for o in outcomes), Counter())
    verdicts = [o.verdict for o in outcomes]
    lines = "\n".join(line for o in outcomes for line in o.log)
    return {
        "launches": sum(o.launches for o in outcomes),
        "worlds": len(outcomes),
        "kills": sum(killed.values()),
        "faults": dict(sorted(sum((o.faults for o in outcomes), Counter()).items())),
        "leaked": sum(v.leaked for v in verdicts),
        "duplicates": sum(v.duplicates for v in verdicts),
        "twins": sum(v.twins for v in verdicts),
        "stuck": sum(v.stuck for v in verdicts),
        "orphans": sum(v.orphans for v in verdicts),
        "over_cap_usd_max": f"{max((v.over_cap_usd_max for v in verdicts), default=Decimal(0)):f}",
        "unguarded_over_cap_usd_max": f"{max((v.unguarded_over_cap_usd_max for v in verdicts), default=Decimal(0)):f}",
        "over_deadline_seconds_max": round(max((v.over_deadline_seconds_max for v in verdicts), default=0.0), 3),
        "ledger_minus_invoice_usd": f"{sum((v.ledger_minus_invoice_usd for v in verdicts), Decimal(0)):f}",
        "checkpoints_lost": sum(v.checkpoints_lost for v in verdicts),
        "lost_creates": sum(o.lost_creates for o in outcomes),
        "crashes": sum(len(o.crashes) for o in outcomes),
        "violations": sum(len(o.findings) for o in outcomes),
        "call_sites": len(passed),
        "call_sites_killed": len([site for site in passed if killed[site]]),
        "sites": sorted(passed),
        "endings": dict(sorted(sum((o.endings for o in outcomes), Counter()).items())),
        "virtual_hours": round(sum(o.virtual_seconds for o in outcomes) / 3600, 1),
        "log_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "seeds": [o.seed for o in outcomes if o.findings],
    }

"""How long whole commands take: `python -m tests.speed`. Prints Markdown, each beside `python -c pass` on the same machine.

A ledger of a hundred runs is made first. Commands take turns, so that a busy moment meets all of them. The ratio is of processor time,
which others on the machine disturb least. The bars are of two quiet cores and are shown, not enforced. Bytecode is there, as after an
installation.
"""

from __future__ import annotations

import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from tests.ledger.torture import a_full_ledger

ROOT = Path(__file__).parents[2]
LUMINA = str(Path(sys.executable).with_name("lumina"))
RUNS = 100
ROUNDS = 5

COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "lumina --help": ([LUMINA, "--help"], 0.25),
    "lumina plan b7 --arch mod": ([LUMINA, "plan", "b7", "--arch", "mod"], 0.6),
    "lumina status": ([LUMINA, "status"], 0.4),
    "lumina costs": ([LUMINA, "costs"], 0.4),
}
"""What is typed, how it is run, and the seconds that it may take."""


@dataclass(frozen=True)
class Took:
    """One run of a command, in seconds."""

    wall: float
    cpu: float


def measure(rounds: int = ROUNDS, runs: int = RUNS) -> dict[str, list[Took]]:
    """Return what each command took, round by round."""
    for package in ("lumina_cloud", "providers", "trainer"):
        compileall.compile_dir(ROOT / package, quiet=1)
    found: dict[str, list[Took]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        a_full_ledger(home, runs=runs)
        _end_rentals(home)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LUMINA_")} | {"LUMINA_HOME": str(home)}
        for nth in range(rounds + 1):
            for name, (argv, _bar) in COMMANDS.items():
                took = run(argv, environment)
                if nth:  # the first round fills the disk's caches
                    found[name].append(took)
    return found


def _end_rentals(home: Path) -> None:
    """End all rentals but the newest, as in a ledger that is in use."""
    ledger = Ledger.open(home, SystemClock())
    with ledger.transaction() as tx:
        for rental in sorted(ledger.open_rentals(), key=lambda one: one.run_id)[:-1]:
            tx.update_rental(rental.rental_id, state="ended", ended_at=SystemClock().now())
    ledger.close()


def run(argv: list[str], environment: dict[str, str]) -> Took:
    """Run a command to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def table(found: dict[str, list[Took]]) -> str:
    """Return the table."""
    base = median(took.cpu for took in found["python -c pass"])
    lines = [
        f"On {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, a ledger of {RUNS} runs.",
        "",
        "| command | median | least | processor | x `python -c pass` | bar |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, took in found.items():
        bar, cpu = COMMANDS[name][1], median(one.cpu for one in took)
        wall = [one.wall for one in took]
        cells = (f"{median(wall):.3f} s", f"{min(wall):.3f} s", f"{cpu:.3f} s", f"{cpu / base:.0f}", "-" if bar is None else f"{bar} s")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))

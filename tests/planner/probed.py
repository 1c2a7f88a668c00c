"""A plan that was probed, held against its run: `python -m tests.planner.probed` plans, probes, trains and reads `lumina accuracy`.

`debug` and a 33 M-parameter model on this computer, by the commands that a user types, in a home of their own. Leaves with 1 when time or
peak memory is off by more than 10 %. The same steps are measured once more after the run: by how much a computer's own speed changed
meanwhile, no plan of it can be right. Some ten minutes, and says something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.planner.on_this_machine import SIZES

OFF = 0.1
LUMINA = Path(sys.executable).with_name("lumina")
WORKLOADS = {
    "debug": ["--tokens", "6M"],
    "33 M": ["--tokens", "150K", "--global-batch", "4096", "--set", "seq_len=512", *(f"--set={k}={v}" for k, v in SIZES["33 M"].items())],
}
FIGURES = ("seconds", "peak_memory_gib", "tokens_per_second")
HELD = ("seconds", "peak_memory_gib")
AGAIN = "the probe, again"


def lumina(home: str, *words: str) -> str:
    """Return what a command prints. Raises SystemExit with its words where it fails."""
    done = subprocess.run([LUMINA, *words], env={**os.environ, "LUMINA_HOME": home}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def held(arch: str, workload: list[str]) -> dict[str, tuple[float, float]]:
    """Return what the probed plan said and what the run took, by figure."""
    asked = ["debug", "--arch", arch, "--provider", "local", *workload]
    with tempfile.TemporaryDirectory() as home:
        before = probed(home, asked)
        lumina(home, "launch", *asked, "--max-cost", "1", "--yes", "--follow")
        rows = json.loads(lumina(home, "accuracy", "--json"))["rows"]
        after = probed(home, asked)
    found = {row["figure"]: (row["predicted"], row["actual"]) for row in rows if row["figure"] in FIGURES and row["actual"]}
    return {**found, AGAIN: (before, after)}


def probed(home: str, asked: list[str]) -> float:
    """Return the tokens per second that a probe measures now."""
    lumina(home, "plan", *asked, "--probe")
    newest = max(Path(home, "probes").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return float(json.loads(newest.read_text(encoding="utf-8"))["tokens_per_second"])


def main() -> int:
    """Plan, probe, train, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.planner.probed", description="Holds probed plans against their runs.")
    parser.add_argument("--size", choices=WORKLOADS, action="append", help="one of the sizes; both without it")
    parser.add_argument("--arch", default="dense")
    options = parser.parse_args()
    worst = 0.0
    for size in options.size or WORKLOADS:
        found = held(options.arch, WORKLOADS[size])
        if missing := set(FIGURES) - set(found):
            raise SystemExit(f"{size}: nothing is known of {', '.join(sorted(missing))}")
        for figure, (predicted, actual) in found.items():
            off = actual / predicted - 1
            worst = max(worst, abs(off) if figure in HELD else 0.0)
            print(f"{size:6} {options.arch:7} {figure:18} planned {predicted:12.3f}  actual {actual:12.3f}  {off:+.1%}", flush=True)
    print(f"largest difference {worst:.1%}, to be at most {OFF:.0%}, load {os.getloadavg()[0]:.1f}")
    return int(worst > OFF)


if __name__ == "__main__":
    sys.exit(main())

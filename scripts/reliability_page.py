"""Writes the figures of docs/reliability.md: runs the campaigns, one after the other, and puts what they print into the page's table.

`make torture` runs all of them in full, which takes hours on two cores. `--only NAME` runs one campaign, and leaves the others as they were
last measured: each keeps its line, with command, date and machine, in docs/reliability.json. What follows `--` is added to its command.
`--page` runs none. `--check` changes nothing and fails where the page says something else than the kept lines.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
KEPT = ROOT / "docs" / "reliability.json"
BEGIN, END = "<!-- figures: written by scripts/reliability_page.py -->", "<!-- end of figures -->"

Line = dict[str, Any]

CAMPAIGNS: dict[str, tuple[str, ...]] = {
    "simulation": ("tests.chaos", "--launches", "1000", "--seed", "1"),
    "lost creates": ("tests.chaos", "--launches", "1010", "--seed", "1", "--lost-creates"),
    **{
        f"sabotage {name}": ("tests.chaos", "--launches", "40", "--seed", "1", "--sabotage", name)
        for name in ("no-lookup", "no-reconcile", "no-guard", "charge-by-own-clock")
    },
    "kills": ("tests.chaos.kills", "--pairs", "60", "--workers", "10"),
    "crowd": ("tests.chaos.crowd", "--launches", "50", "--controllers", "6"),
    "real": ("tests.chaos.real", "--launches", "5"),
}
MINE = ("leaked", "duplicates", "stuck")
PROOFS = ("simulation", "lost creates", "kills", "real")


def main() -> None:
    """Run what is asked for, and write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=tuple(CAMPAIGNS), action="append", help="run this campaign alone; repeatable")
    parser.add_argument("--page", action="store_true", help="run none, write the page from the kept lines")
    parser.add_argument("--check", action="store_true", help="run none, and fail where the page is not what would be written")
    parser.add_argument("more", nargs="*", help="options for the campaign, after --")
    options = parser.parse_args()
    kept: dict[str, Line] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    if not (options.page or options.check):
        for name in options.only or CAMPAIGNS:
            kept[name] = run(name, options.more)
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    written = f"{before}{BEGIN}\n\n{table(kept)}\n\n{END}{rest.partition(END)[2]}"
    if options.check:
        sys.exit(0 if written == text else f"{PAGE} is not what is written from {KEPT.name}: scripts/reliability_page.py --page")
    PAGE.write_text(written, encoding="utf-8")


def run(name: str, more: list[str]) -> Line:
    """Run a campaign and return its line, with how, when and where. One that finds something prints its line too."""
    words = [*CAMPAIGNS[name], *more]
    sys.stderr.write(f"{name}: python -m {' '.join(words)}\n")
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise SystemExit(f"{name} printed nothing, and ended with {done.returncode}")
    line: Line = json.loads(lines[-1])
    return {**line, "command": f"python -m {' '.join(words)}", "measured": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}


def machine() -> str:
    """Say on what it was measured."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


# --- the table -----------------------------------------------------------------------------------------------------------


def table(kept: dict[str, Line]) -> str:
    """Return the figures beside what they must be, and what was played."""
    rows = [
        (
            "leaked instances, duplicate rentals, stuck runs",
            "0, 0, 0",
            _each(kept, PROOFS, lambda line: ", ".join(str(line[name]) for name in MINE)),
        ),
        (
            "ledger minus provider's invoice, sum over rentals",
            "$0.00",
            _each(kept, PROOFS, lambda line: f"${line['ledger_minus_invoice_usd']}"),
        ),
        (
            "spent above a hard cap, largest",
            "one billing step per rental",
            _each(kept, PROOFS, lambda line: f"${max(Decimal(0), Decimal(line['over_cap_usd_max']))}"),
        ),
        ("verified checkpoints that a resume could not use", "0", _each(kept, PROOFS, lambda line: str(line["checkpoints_lost"]))),
        ("work lost at an interruption, largest", "one checkpoint interval", _each(kept, ("real",), _lost)),
        ("call sites of `edge()` killed; crash points are their before, during and after", "all", _each(kept, ("kills",), _call_sites)),
        ("sabotage found", "each", "; ".join(_sabotage(kept))),
        ("50 launches at once under one cap", "the cap holds", _each(kept, ("crowd",), _one_cap)),
        ("two controllers for one run, one of them stopped past its lease", "exactly one acts", _each(kept, ("crowd",), _controllers)),
        ("lost or lying create replies: duplicates; orphans 120 s later", "0; 0", _each(kept, ("lost creates",), _replies)),
    ]
    cells = [f"| {figure} | {must} | {measured} |" for figure, must, measured in rows]
    commands = {name: kept.get(name, {}).get("command", f"python -m {' '.join(words)}") for name, words in CAMPAIGNS.items()}
    played = [f"| {name} | `{commands[name]}` | {_played(kept.get(name))} |" for name in CAMPAIGNS]
    return "\n".join(
        [
            "| figure | must be | measured |\n| --- | --- | --- |",
            *cells,
            "",
            "| campaign | command | played |\n| --- | --- | --- |",
            *played,
        ]
    )


def _each(kept: dict[str, Line], names: tuple[str, ...], of: Any) -> str:
    said = [f"{name}: {of(kept[name])}" if len(names) > 1 else of(kept[name]) for name in names if name in kept]
    return "; ".join(said) or "not measured"


def _lost(line: Line) -> str:
    return f"{line['lost_seconds_max']} s, at an interval of {line['interval_seconds']:.0f} s ({line['interruptions']} interruptions)"


def _call_sites(line: Line) -> str:
    sites = len(line["sites"])
    return f"{line['call_sites_killed']} of {line['call_sites']}, {line['crash_points_killed']} crash points of {sites} sites"


def _one_cap(line: Line) -> str:
    at_once = line.get("rented_at_once", line["rented_runs"])
    rented = f"{line['rented_runs']} of {line['launches']} rented, at most {at_once} at once"
    return f"{rented}, {line['fitting']} fit; ${line['over_cap_usd']} above it"


def _controllers(line: Line) -> str:
    return f"{line['taken_over']} taken over, {line['acts_after_waking']} acts of the one that slept, {line['twice_rented']} rented twice"


def _replies(line: Line) -> str:
    return f"{line['duplicates']}; {line['orphans']} ({line['lost_creates']:,} such replies)"


def _sabotage(kept: dict[str, Line]) -> list[str]:
    names = [name for name in CAMPAIGNS if name.startswith("sabotage ")]
    return [f"{name.split()[1]}: {'found' if kept[name]['violations'] else 'NOT FOUND'}" for name in names if name in kept] or [
        "not measured"
    ]


def _played(line: Line | None) -> str:
    if line is None:
        return "not yet"
    figures = [f"{line[name]:,} {name}" for name in ("launches", "kills") if line.get(name)]
    faults = sum(line["faults"].values()) if "faults" in line and "crash_points" not in line else 0
    figures += [f"{faults:,} faults"] if faults else []
    # What each campaign calls what it found.
    found = line.get("violations", line.get("findings", 0))
    figures += [f"{found if isinstance(found, int) else len(found)} found"]
    return f"{', '.join(figures)}, seed {line.get('seed', 1)}; {line['measured']}, {line['machine']}"


if __name__ == "__main__":
    main()

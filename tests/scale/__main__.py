"""Writes a large ledger, as years of work of a team would leave it: `python -m tests.scale --runs 100000 --points 10000000 --home DIR`.

The rows are what Lumina itself would write: sealed, chained, summed up, and found whole by `lumina ledger verify`. Every run has a
rental or two, charges for time, storage and traffic, ten events, a curve, and its files' names. Nothing is random but by `--seed`.
"""

import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import (
    ArtifactRecord,
    ChargeRecord,
    CurveRecord,
    EventRecord,
    Ledger,
    PlanRecord,
    RentalRecord,
    RunRecord,
    curves,
    mark,
    spending,
)
from lumina_cloud.ledger.records import FactRecord
from lumina_cloud.ledger.rows import FIRST_EVENT, TABLES, columns, seal, to_record, to_row

SHAPES = (
    ("debug", "vastai", "RTX3090", 1, "0.28"),
    ("debug200m", "vastai", "RTX4090", 1, "0.34"),
    ("b1", "runpod", "A100-80GB-PCIe", 1, "1.89"),
    ("b1", "lambda", "A10", 1, "0.75"),
    ("b7", "runpod", "A100-80GB-PCIe", 2, "3.78"),
)
ARCHS = ("dense", "moe", "mod", "hybrid")
PROJECTS = ("", "vision", "speech", "search", "ablations")
LABELS = ([], ["night"], ["team=a"], ["team=b", "night"])
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 720
BATCH = 500
EVENTS = ("run.launched", "rental.intended", "rental.create", "rental.created", "rental.ready", "run.started_on_machine")
LATE_EVENTS = ("run.training_began", "run.work_ended", "rental.gone", "run.concluded")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=10_000_000, help="points of curves, over all runs")
    parser.add_argument("--home", type=Path, required=True, help="LUMINA_HOME of the ledger; it must not hold one yet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", action="store_true", help="time commands on the ledger that is there, as whole processes")
    options = parser.parse_args()
    if options.time:
        timed(options.home)
        return
    if (options.home / "ledger.db").exists():
        parser.error(f"{options.home} holds a ledger already")
    began = time.monotonic()
    Ledger.open(options.home, SystemClock(), "").close()
    points = write(options.home / "ledger.db", options.runs, options.points, options.seed)
    seconds, size = time.monotonic() - began, (options.home / "ledger.db").stat().st_size
    print(f"{options.runs:,} runs, {points:,} points, {size / 1e9:.2f} GB in {seconds:.0f} s: {options.home / 'ledger.db'}")


LAUNCH = "launch debug --provider local --tokens 20k --global-batch 2048 --set seq_len=128 --max-cost 0.05 --yes"


def timed(home, times=3):
    """Print the medians of whole processes. What a large ledger adds to a launch is its processor time beyond that on an empty one."""
    for command in ("status", "costs --by month"):
        walls = [whole_process(home, command)[0] for _ in range(times)]
        print(f"{command}: {median(walls):.2f} s")
    with tempfile.TemporaryDirectory(prefix="lumina-empty-") as empty:
        pairs = [(launched(Path(empty)), launched(home)) for _ in range(times)]
    small, large = (median(each) for each in zip(*pairs, strict=True))
    print(f"launch: {large:.2f} s of the processor, {small:.2f} s with an empty ledger: overhead {large - small:+.2f} s")


def launched(home):
    """Launch a small run here and return the processor's seconds that the command took; the run has ended when this returns."""
    seconds = whole_process(home, LAUNCH)[1]
    whole_process(home, "logs -f last")
    return seconds


def whole_process(home, command):
    """Run a command to its end and return its seconds by the wall and by the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    argv = [Path(sys.executable).with_name("lumina"), *command.split()]
    environment = {**os.environ, "LUMINA_HOME": str(home), "LUMINA_LEDGER_URL": ""}
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"lumina {command}: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write(path, n_runs, n_points, seed):
    """Fill a ledger that is empty, and return how many points its curves hold."""
    chance = random.Random(seed)
    sums, chain = {}, Chain()
    kept = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-200000")
        writer = Writer(connection)
        for start in range(0, n_runs, BATCH):
            connection.execute("BEGIN IMMEDIATE")
            for n in range(start, min(start + BATCH, n_runs)):
                share = n_points * (n + 1) // n_runs - n_points * n // n_runs
                kept += _write_run((writer, chain, sums), (n, n_runs), share, chance)
            writer.flush()
            connection.execute("COMMIT")
            if start % 10_000 == 0:
                print(f"{start:,} runs", file=sys.stderr)
        connection.execute("BEGIN IMMEDIATE")
        for cell, measures in sorted(sums.items()):
            writer.add(spending.record(cell, measures))
        writer.flush()
        facts = _finish(connection, chain)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    mark.write(path, mark.Mark(facts["ledger"], int(facts["commits"])))
    return kept


class Chain:
    """Gives events their places."""

    def __init__(self):
        self.last, self.head = 0, FIRST_EVENT

    def event(self, at, run_id, rental_id, kind):
        self.last += 1
        made = EventRecord(self.last, at, run_id, rental_id, kind, {}, previous=self.head)
        self.head = seal(made)
        return made


class Writer:
    """Collects records and writes them table by table."""

    def __init__(self, connection):
        self._connection = connection
        self._rows = {cls: [] for cls in TABLES}

    def add(self, record):
        self._rows[type(record)].append(_stored(record))

    def flush(self):
        for cls, rows in self._rows.items():
            if rows:
                names = [c.name for c in columns(cls)] + ["seal"]
                marks = ", ".join("?" * len(names))
                quoted = ", ".join(f'"{name}"' for name in names)
                self._connection.executemany(f"INSERT INTO {TABLES[cls]} ({quoted}) VALUES ({marks})", rows)
                rows.clear()


def _stored(record):
    """Return a record's row as SQLite keeps it."""
    row = to_row(record)
    values = []
    for column in columns(type(record)):
        value = row[column.name]
        if value is not None and column.kind == "time":
            value = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        elif column.kind == "json":
            value = json.dumps(value)
        values.append(value)
    return (*values, row["seal"])


def _write_run(tables, place, n_points, chance):
    writer, chain, sums = tables
    n, n_runs = place
    model, provider, gpu, count, price = SHAPES[chance.randrange(len(SHAPES))]
    arch, project, labels = chance.choice(ARCHS), chance.choice(PROJECTS), chance.choice(LABELS)
    run_id = f"{model}-{arch}-{n:06d}"
    at = FIRST + timedelta(days=DAYS) * (n / n_runs) + timedelta(seconds=chance.randrange(3600))
    boot, hours = timedelta(minutes=chance.randrange(1, 9)), timedelta(hours=chance.uniform(0.2, 30))
    state = chance.choices(("succeeded", "failed", "stopped"), (85, 8, 7))[0]
    interrupted = chance.random() < 0.1
    usd_per_hour = Decimal(price)
    tokens, first = 1_000_000 * chance.randrange(50, 2000), chance.uniform(8, 11)
    result = {"loss_first": first, "loss_last": chance.uniform(2, 5), "tokens": tokens, "seconds": hours.total_seconds()}
    planned_usd = str(round(usd_per_hour * Decimal(hours.total_seconds()) / 3600, 6))
    plan = PlanRecord(f"p-{n:06d}", at, {"model": model, "archs": [arch]}, {"plan": f"p-{n:06d}"})
    rentals = _rentals(run_id, at, (boot, hours), (provider, gpu, count, usd_per_hour), interrupted=interrupted)
    run = RunRecord(
        run_id=run_id,
        created_at=at,
        model=model,
        arch=arch,
        state=state,
        reason={"succeeded": "finished", "failed": "trainer_crashed", "stopped": "stopped_by_user"}[state],
        config_json=json.dumps({"preset": model, "model": {"arch": arch}}),
        plan_id=plan.plan_id,
        provider=provider,
        gpu=gpu,
        count=count,
        usd_per_hour=usd_per_hour,
        planned={"usd": {"low": "0.00", "mid": planned_usd, "high": planned_usd}, "seconds": {"mid": hours.total_seconds()}},
        usd_cap=Decimal("100"),
        seconds_cap=1e6,
        data_path=None,
        folder=f"/runs/{run_id}",
        started_at=at + boot,
        ended_at=rentals[-1].ended_at,
        stop_requested_at=None,
        progress={"step": n_points, "steps": n_points, "tokens": tokens},
        result=result,
        project=project,
        labels=labels,
    )
    charges = [charge for rental in rentals for charge in _charges(rental)]
    writer.add(plan)
    writer.add(run)
    for record in (*rentals, *charges):
        writer.add(record)
    for nth, kind in enumerate((*EVENTS, *LATE_EVENTS)):
        rental = rentals[0] if kind in EVENTS else rentals[-1]
        writer.add(chain.event(at + boot * (nth / 6) if kind in EVENTS else rentals[-1].ended_at, run_id, rental.rental_id, kind))
    writer.add(ArtifactRecord(run_id, "model.safetensors", 1_000_000, "0" * 64))
    curve = _curve(run_id, n_points, tokens, first, chance)
    writer.add(curve)
    for cell, measures in spending.cells(run, rentals, charges).items():
        total = sums.setdefault(cell, {})
        for name, value in measures.items():
            total[name] = total.get(name, 0) + value
    return len(curve.columns["step"])


def _rentals(run_id, at, spans, machine, *, interrupted):
    boot, hours = spans
    provider, gpu, count, usd_per_hour = machine
    made = []
    for attempt in (1, 2) if interrupted else (1,):
        ready = at + boot
        over = ready + hours / (2 if interrupted else 1)
        made.append(
            RentalRecord(
                rental_id=f"{run_id}-{attempt}",
                run_id=run_id,
                attempt=attempt,
                tag=f"lumina-{run_id}-{attempt}",
                provider=provider,
                gpu=gpu,
                count=count,
                usd_per_hour=usd_per_hour,
                offer_id="offer",
                instance_id=f"i-{run_id}-{attempt}",
                state="ended",
                intended_at=at,
                ready_at=ready,
                ended_at=over + timedelta(minutes=2),
                training_at=ready + timedelta(minutes=1),
                work_ended_at=over,
                ending="interrupted" if interrupted and attempt == 1 else "finished",
                saved_at=over - timedelta(minutes=10),
            )
        )
        at = over + timedelta(minutes=5)
    return made


def _charges(rental):
    from lumina_cloud.core import money

    until = rental.ended_at
    time_usd = money.for_time(rental.usd_per_hour, until - rental.intended_at)
    for kind, usd in (("gpu", time_usd), ("storage", (time_usd / 40).quantize(Decimal("0.000001")))):
        yield ChargeRecord(
            charge_id=f"{rental.rental_id}-{'time' if kind == 'gpu' else kind}",
            run_id=rental.run_id,
            rental_id=rental.rental_id,
            provider=rental.provider,
            usd=usd,
            usd_per_hour=rental.usd_per_hour,
            since=rental.intended_at,
            until=until,
            basis="metered" if kind == "gpu" else "billed",
            kind=kind,
        )


def _curve(run_id, n_points, tokens, first, chance):
    """Return a curve of a run of so many steps, thinned out as the ledger thins it."""
    stride = 1
    while n_points // stride + 1 > curves.MAX_POINTS:
        stride *= 2
    steps = list(range(1, n_points + 1, stride))
    if n_points and steps[-1] != n_points:
        steps.append(n_points)
    losses = [round(first / (1 + 0.3 * (s / max(1, n_points)) * 5) + chance.uniform(-0.05, 0.05), 4) for s in steps]
    made = {"step": steps, "tokens": [tokens * s // max(1, n_points) for s in steps], "loss": losses}
    return CurveRecord(run_id, stride, n_points, made)


def _finish(connection, chain):
    kept = {}
    connection.row_factory = sqlite3.Row
    for row in connection.execute("SELECT * FROM facts").fetchall():
        fact = to_record(FactRecord, dict(row))
        kept[fact.name] = fact.value
    kept["commits"] = str(int(kept["commits"]) + 1)
    kept["events"] = f"{chain.last} {chain.last} {chain.head}"
    connection.execute("DELETE FROM facts")
    for name, value in kept.items():
        connection.execute("INSERT INTO facts (name, value, seal) VALUES (?, ?, ?)", _stored(FactRecord(name, value)))
    return kept


if __name__ == "__main__":
    main()

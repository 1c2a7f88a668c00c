"""What the ledger has to survive, as functions that count what went wrong. Tests call them small, people call them large:

python -m tests.ledger.torture kills --count 100
python -m tests.ledger.torture mutations --count 10000
python -m tests.ledger.torture crowd --processes 50 --commands 200
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import ArtifactRecord, Ledger, MetricRecord
from lumina_cloud.ledger.records import BudgetRecord
from lumina_cloud.ledger.verifying import verify
from lumina_cloud.remote import checkpoints
from tests.ledger.conftest import NOW, a_charge, fill

ROOT = Path(__file__).resolve().parents[2]

# --- kills ---------------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys, pathlib
sys.path.insert(0, {root!r})
from datetime import timedelta
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger, MetricRecord
from tests.ledger.conftest import NOW, a_charge, a_run, a_rental
ledger = Ledger.open(pathlib.Path({home!r}), SystemClock())
n = {first}
while True:
    run = f"run-{{n:07d}}"
    with ledger.transaction() as tx:
        tx.add_run(a_run(run, project="p", labels=["a"]))
        tx.add_rental(a_rental(run))
        tx.put_charge(a_charge(run, usd="0.001", until=NOW + timedelta(seconds=n)))
        tx.add_event("run.launched", run_id=run, text="x" * 500)
        tx.put_metrics(run, [MetricRecord(run, s, {{"loss": 1.0 / s}}) for s in range(1, 50)])
    os.write(1, f"{{n}}\\n".encode())
    n += 1
"""


def kills(home, count, seed=0):
    """Kill a writer at `count` random moments; return (kills, commits that were told, commits that are lost, integrity errors)."""
    chance = random.Random(seed)
    Ledger.open(home, SystemClock()).close()
    told, lost, broken, first = 0, 0, 0, 0
    for _nth in range(count):
        code = WRITER.format(root=str(ROOT), home=str(home), first=first)
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        said = os.read(writer.stdout.fileno(), 1)
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.stdout.read()
        writer.stdout.close()
        writer.wait()
        # A commit is told by a whole line.
        acknowledged = [int(line) for line in said.split(b"\n")[:-1]]
        ledger = Ledger.open(home, SystemClock())
        here = set(ledger.run_names())
        lost += sum(f"run-{n:07d}" not in here for n in acknowledged)
        told += len(acknowledged)
        problems = verify(ledger.database).problems
        ledger.close()
        broken += bool(problems)
        if problems:
            print(problems, file=sys.stderr)
        first = max((int(name.removeprefix("run-")) for name in here), default=-1) + 1
    return count, told, lost, broken


# --- mutations -----------------------------------------------------------------------------------------------------------


def a_full_ledger(home, runs=6):
    """Make a ledger with something in each table."""
    ledger = Ledger.open(home, SystemClock())
    for n in range(runs):
        name = f"run-{n}"
        fill(ledger, name, project=f"p{n % 2}", labels=["night", f"n={n}"], created_at=NOW + timedelta(days=n))
        with ledger.transaction() as tx:
            tx.put_charge(a_charge(name, usd=f"0.{n + 1:03d}", since=NOW, until=NOW + timedelta(hours=n + 1)))
            tx.put_metrics(name, [MetricRecord(name, s, {"loss": 9.0 / s, "tokens": s * 1000}) for s in range(1, 40)])
            tx.put_artifacts(name, [ArtifactRecord(name, "model.safetensors", 1000 + n, f"{n:064d}")])
            for kind in ("run.launched", "rental.created", "run.concluded"):
                tx.add_event(kind, run_id=name, text=f"event of {name}")
            tx.update_run(name, state="succeeded", result={"tokens": 39_000, "loss_first": 9.0, "loss_last": 0.23})
    with ledger.transaction() as tx:
        tx.set_budget(BudgetRecord("p1", "", a_charge(usd="5").usd, NOW))
    ledger.close()


def content_of(home):
    """Return everything that a ledger says, and what the sums of it are."""
    ledger = Ledger.open(home, SystemClock())
    try:
        problems = verify(ledger.database).problems
        if problems:
            raise LedgerError(problems[0])
        tables = ("plans", "runs", "rentals", "charges", "events", "artifacts", "curves", "spending", "budgets", "notices", "sweeps")
        return {table: ledger.database.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}
    finally:
        ledger.close()


def mutate(content, chance):
    """Return content with something done to it: bits, bytes, blocks, a cut, a piece taken out or put in."""
    made = bytearray(content)
    at = chance.randrange(len(made))
    match chance.randrange(7):
        case 0 | 1 | 2:
            made[at] ^= 1 << chance.randrange(8)
        case 3:
            made[at] = chance.randrange(256)
        case 4:
            length = chance.randrange(1, 600)
            made[at : at + length] = bytes(chance.choice((0, 0xFF, chance.randrange(256))) for _ in range(len(made[at : at + length])))
        case 5:
            del made[at:]
        case _:
            length = chance.choice((1, 16, 4096))
            if chance.random() < 0.5:
                del made[at : at + length]
            else:
                made[at:at] = bytes(length)
    return bytes(made)


def mutate_ledgers(home, count, seed=0):
    """Mutate a ledger's files `count` times; return how each was met: refused, harmless (it says the same), or accepted."""
    chance, outcomes = random.Random(seed), Counter()
    master = home / "master"
    a_full_ledger(master)
    truth = content_of(master)
    with_log = home / "with-log"
    _with_log(master, with_log)
    truth_with_log = content_of(_copied(with_log, home / "probe"))
    for _nth in range(count):
        source, expected = (master, truth) if chance.random() < 0.7 else (with_log, truth_with_log)
        victim = _copied(source, home / "victim")
        target = chance.choice(sorted(p for p in victim.iterdir() if p.is_file() and not p.name.endswith("-shm")))
        before = target.read_bytes()
        if chance.random() < 0.03:
            target.unlink()
        else:
            after = mutate(before, chance)
            if after == before:
                continue
            target.write_bytes(after)
        outcomes[_met(victim, expected)] += 1
    return outcomes


def _met(victim, expected):
    try:
        same = content_of(victim) == expected
    except LedgerError:
        return "refused"
    return "harmless" if same else "accepted"


def _copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _with_log(master, target):
    """Leave a ledger as a killed writer does: its newest transactions are in the write-ahead log only."""
    _copied(master, target)
    code = (
        f"import sys, os, signal; sys.path.insert(0, {str(ROOT)!r})\n"
        "import pathlib; from lumina_cloud.core.clock import SystemClock; from lumina_cloud.ledger import Ledger\n"
        "from tests.ledger.conftest import fill\n"
        f"ledger = Ledger.open(pathlib.Path({str(target)!r}), SystemClock())\n"
        "for n in range(4): fill(ledger, f'late-{n}')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (target / "ledger.db-wal").stat().st_size > 0


def mutate_checkpoints(home, count, seed=0):
    """Mutate a checkpoint's files `count` times; count those that are taken for whole although something in them is another."""
    chance, outcomes = random.Random(seed), Counter()
    folder = home / "checkpoints"
    for step in (1, 2):
        _a_checkpoint(folder / f"step-{step:06d}", chance)
    newest = folder / "step-000002"
    whole = {p.name: p.read_bytes() for p in newest.iterdir()}
    assert checkpoints.newest(folder) == newest
    for _nth in range(count):
        name = chance.choice(sorted(whole))
        path = newest / name
        if chance.random() < 0.05:
            path.unlink()
        else:
            path.write_bytes(mutate(whole[name], chance))
        same = all((newest / n).is_file() and (newest / n).read_bytes() == content for n, content in whole.items() if n != "manifest.json")
        taken = checkpoints.newest(folder)
        # A manifest that says the same in other words is harmless; one that leaves a file out is not.
        listed = same and taken == newest and _lists(newest, whole)
        outcomes["refused" if taken == folder / "step-000001" else "harmless" if listed else "accepted"] += 1
        path.write_bytes(whole[name])
    return outcomes


def _lists(checkpoint, whole):
    rows = checkpoints.manifest((checkpoint / "manifest.json").read_bytes())
    return rows is not None and {path for path, _size, _hash in rows} == set(whole) - {"manifest.json"}


def _a_checkpoint(folder, chance):
    import hashlib

    folder.mkdir(parents=True)
    rows = []
    for name, size in (("weights.safetensors", 20_000), ("optimizer.safetensors", 40_000), ("state.json", 300)):
        content = chance.randbytes(size)
        (folder / name).write_bytes(content)
        rows.append({"path": name, "bytes": size, "sha256": hashlib.sha256(content).hexdigest()})
    (folder / "manifest.json").write_text(json.dumps({"files": rows}))


# --- a crowd -------------------------------------------------------------------------------------------------------------

CROWD = """
import contextlib, io, os, sys, time
sys.path.insert(0, {root!r})
os.environ["LUMINA_HOME"] = {home!r}
{address}
import pathlib
from datetime import timedelta
from decimal import Decimal
from lumina_cloud.cli.app import app
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from tests.ledger.conftest import NOW
me, waits, problems = {me}, [], []
for n in range({commands}):
    began = time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            kind = n % 4
            if kind == 0:
                # What every command that meters does: read, add, write, in one transaction.
                ledger = Ledger.open(pathlib.Path({home!r}), SystemClock())
                with ledger.transaction() as tx:
                    (charge,) = tx.charges("shared")
                    from dataclasses import replace
                    tx.put_charge(replace(charge, usd=charge.usd + Decimal("0.000001"), until=charge.until + timedelta(seconds=1)))
                    tx.add_event("crowd", run_id="shared", me=me, n=n)
                ledger.close()
            else:
                budget = ["budget", str(n + 1), "--project", f"p{{me}}", "--json"]
                verb = [budget, ["status", "--json"], ["costs", "--by", "month", "--json"]][kind - 1]
                code = app(verb, standalone_mode=False)
                if code:
                    problems.append(f"exit {{code}}: {{err.getvalue()}}")
        except BaseException as error:
            problems.append(f"{{type(error).__name__}}: {{error}} {{err.getvalue()}}")
    if "locked" in err.getvalue() or "locked" in out.getvalue():
        problems.append(err.getvalue())
    waits.append(time.monotonic() - began)
import json
os.write(1, json.dumps({{"problems": problems, "waits": waits}}).encode())
"""


def crowd(home, processes, commands, url=""):
    """Let many processes type commands at once; return what was wrong, updates lost, and the waits in seconds."""
    ledger = Ledger.open(home, SystemClock(), url)
    fill(ledger, "shared")
    with ledger.transaction() as tx:
        tx.put_charge(a_charge("shared", usd="0"))
    address = f"os.environ['LUMINA_LEDGER_URL'] = {url!r}" if url else ""
    codes = [CROWD.format(root=str(ROOT), home=str(home), me=me, commands=commands, address=address) for me in range(processes)]
    crew = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for code in codes]
    problems, waits = [], []
    for member in crew:
        out, err = member.communicate()
        try:
            said = json.loads(out)
        except ValueError:
            said = {"problems": [err.decode()[-500:]], "waits": []}
        problems += said["problems"]
        waits += said["waits"]
    updates = processes * len(range(0, commands, 4))
    (charge,) = ledger.charges("shared")
    lost = updates - int(charge.usd * 1_000_000)
    lost += updates - sum(e.kind == "crowd" for e in ledger.events("shared"))
    lost += processes - len(ledger.budgets()) if commands > 1 else 0
    problems += verify(ledger.database).problems
    ledger.close()
    return problems, lost, sorted(waits)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.ledger.torture", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("kills", "mutations", "crowd"))
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--commands", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lumina-torture-") as folder:
        home = Path(folder)
        if options.what == "kills":
            n, told, lost, broken = kills(home, options.count or 100, options.seed)
            print(f"{n} kills, {told:,} commits told: {lost} lost, {broken} integrity errors")
            sys.exit(bool(lost or broken))
        if options.what == "mutations":
            count = options.count or 10_000
            ledgers = mutate_ledgers(home, count // 2, options.seed)
            files = mutate_checkpoints(home, count - count // 2, options.seed)
            print(f"{count // 2:,} of ledgers: {dict(ledgers)}; {count - count // 2:,} of checkpoints: {dict(files)}")
            sys.exit(bool(ledgers["accepted"] or files["accepted"]))
        problems, lost, waits = crowd(home, options.processes, options.commands)
        p99 = waits[int(len(waits) * 0.99)]
        print(f"{options.processes} x {options.commands} commands: {len(problems)} problems, {lost} updates lost, p99 {p99:.2f} s")
        for problem in problems[:5]:
            print(problem)
        sys.exit(bool(problems or lost))


if __name__ == "__main__":
    main()

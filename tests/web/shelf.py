"""A ledger as a few months of small jobs leave it: runs with curves, text and charges, prices, budgets. Every figure is made up."""

import math
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from lumina_cloud.core import money
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import ArtifactRecord, BudgetRecord, ChargeRecord, Ledger, MetricRecord, PriceRecord, RentalRecord, RunRecord

MACHINES = (
    ("vastai", "RTX4090", 1, "0.34", 41_000.0),
    ("vastai", "RTX3090", 1, "0.28", 23_000.0),
    ("runpod", "A100-80GB-PCIe", 1, "1.89", 68_000.0),
    ("lambda", "A10", 1, "0.75", 19_000.0),
)
ARCHS = ("dense", "moe", "mod", "hybrid")
HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>{{ 7*7 }}</td>\'"&amp;'
"""What a rented machine, a market or a text may call itself."""


def fill(home, runs=14, *, hostile=False):
    """Write the ledger of a home, and a folder a run."""
    chance, now = random.Random(7), datetime.now(UTC).replace(microsecond=0)
    ledger = Ledger.open(home, SystemClock(), "")
    with ledger.transaction() as tx:
        for n in range(runs):
            _run(tx, home, n, now - timedelta(days=7 * (runs - n), hours=n), chance)
        if hostile:
            _hostile(tx, home, now)
        tx.put_prices(list(_prices(now, chance)))
        tx.set_budget(BudgetRecord(project="", month="", usd_cap=Decimal(40), set_at=now))
        tx.set_budget(BudgetRecord(project="speech", month="", usd_cap=Decimal(12), set_at=now))
    ledger.close()


def _run(tx, home, n, at, chance):
    provider, gpu, count, price, speed = MACHINES[n % len(MACHINES)]
    arch, model = ARCHS[(n // 2) % 4], ("debug", "debug200m")[n % 2]
    run_id, failed = f"{model}-{arch}-{n + 1}", n % 7 == 5
    hours, floor = 1.5 + n % 5, 2.9 + 0.12 * (n % 4)
    tokens = int(hours * 3600 * speed)
    steps = tokens // 65_536
    usd = money.for_time(Decimal(price), timedelta(hours=hours))
    curve = [_point(run_id, k, (steps, tokens), (floor, speed), chance) for k in range(1, 401)]
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(f"starting on {gpu}\n" + "".join(f"step {m.step} loss {m.data['loss']}\n" for m in curve[-8:]))
    mids = {
        "seconds": hours * 3500,
        "usd": float(usd) * 0.97,
        "peak_memory_gib": 14.0,
        "tokens_per_second": speed * 1.04,
        "loss": floor + 0.03,
    }
    planned = {name: {"low": v * 0.8, "mid": v, "high": v * 1.3} for name, v in mids.items()}
    planned["usd"] = {name: str(round(v, 4)) for name, v in planned["usd"].items()}
    config = f'{{"preset": "{model}", "seed": 0}}'
    tx.add_run(
        RunRecord(
            run_id, at, model, arch, "failed" if failed else "succeeded", "trainer_crashed" if failed else "finished", config, None,
            provider, gpu, count, Decimal(price), planned, usd * 2, hours * 7200, None, str(folder), at, at + timedelta(hours=hours), None,
            {"step": steps, "steps": steps, "tokens": tokens}, {} if failed else _result(arch, floor, speed, tokens, hours),
            project=("", "speech", "vision")[n % 3], labels=["night"] if n % 2 else [],
        )
    )  # fmt: skip
    times = {"ready_at": at + timedelta(minutes=6), "training_at": at + timedelta(minutes=7), "ended_at": at + timedelta(hours=hours)}
    tx.add_rental(
        RentalRecord(
            f"{run_id}-1", run_id, 1, f"lumina-{run_id}-1", provider, gpu, count, Decimal(price), "offer", f"i-{n}", "ended", at, **times,
            work_ended_at=at + timedelta(hours=hours, minutes=-2), ending="failed" if failed else "finished",
        )
    )  # fmt: skip
    spent = ChargeRecord(f"{run_id}-a", run_id, f"{run_id}-1", provider, usd, Decimal(price), at, at + timedelta(hours=hours), "metered")
    tx.put_charge(spent)
    tx.put_metrics(run_id, curve)
    if not failed:
        tx.put_artifacts(run_id, [ArtifactRecord(run_id, "model.safetensors", 45_000_000, "ab" * 32)])


def _point(run_id, k, whole, shape, chance):
    share, (steps, tokens), (floor, speed) = k / 400, whole, shape
    loss = floor + 4.2 * math.exp(-6 * share) + chance.gauss(0, 0.04)
    step = max(1, round(steps * share))
    figures = {"loss": round(loss, 4), "tokens_per_second": round(speed * (1 + chance.gauss(0, 0.02)), 1), "lr": 1e-3}
    return MetricRecord(run_id, step, {"step": step, "tokens": int(tokens * share), **figures})


def _result(arch, floor, speed, tokens, hours):
    routed = {"expert_utilisation": 0.97, "load_balance": 0.94} if arch in ("moe", "hybrid") else {}
    depths = {"skip_rate": 0.48, "predictor_precision": 0.91} if arch in ("mod", "hybrid") else {}
    return {
        "loss_first": 10.4, "loss_last": floor, "perplexity": round(math.exp(floor), 2), "tokens": tokens, "seconds": hours * 3400,
        "peak_memory_gib": 13.6, "tokens_per_second": speed, "device": "GPU", "routing": {**routed, **depths},
        "sample": {"prompt": "The river", "text": " ran slowly past the mill, and in the evening the light lay on it like a coin."},
        "versions": {"torch": "2.11.0", "deepspeed": "0.19.2", "python": "3.11"},
    }  # fmt: skip


def _hostile(tx, home, now):
    """Write a run in which everything that comes from outside is an attack."""
    folder = home / "runs" / "hostile-1"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(f"{HOSTILE}\n\x1b]0;owned\x07\x1b[2J\u202eevil\n")
    result = {
        **_result("moe", 3.0, 1000.0, 10**6, 1.0),
        "sample": {"prompt": HOSTILE, "text": HOSTILE}, "versions": {HOSTILE: HOSTILE}, "routing": {HOSTILE: 0.5},
    }  # fmt: skip
    at = now - timedelta(hours=3)
    tx.add_run(
        RunRecord(
            "hostile-1", at, "debug", "moe", "succeeded", "finished", "{}", None, "vastai", HOSTILE, 1, Decimal("0.3"), {}, Decimal(1),
            7200.0, None, str(folder), at, now, None, {"step": 1, "steps": 1, "tokens": 5}, result, project=HOSTILE, labels=[HOSTILE],
        )
    )  # fmt: skip
    tx.add_rental(
        RentalRecord(
            "hostile-1-1", "hostile-1", 1, "lumina-hostile-1-1", "vastai", HOSTILE, 1, Decimal("0.3"), HOSTILE, HOSTILE, "ended", at,
            at, now, training_at=at, work_ended_at=now, ending="finished",
        )
    )  # fmt: skip
    tx.put_charge(ChargeRecord("hostile-c", "hostile-1", "hostile-1-1", "vastai", Decimal("0.9"), Decimal("0.3"), at, now, "billed"))
    tx.put_metrics("hostile-1", [MetricRecord("hostile-1", n, {"step": n, "tokens": n * 1000, "loss": 5.0 / n}) for n in (1, 2, 3)])
    tx.put_artifacts("hostile-1", [ArtifactRecord("hostile-1", HOSTILE, 1, "0" * 64)])


def _prices(now, chance):
    for day in range(30):
        for provider, gpu, count, price, _ in MACHINES:
            usd = (Decimal(price) * Decimal(str(round(1 + chance.gauss(0, 0.06), 3)))).quantize(Decimal("0.0001"))
            yield PriceRecord(now - timedelta(days=29 - day, minutes=5), provider, gpu, count, provider == "vastai", usd, 3 + day % 9)

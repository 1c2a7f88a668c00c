"""A probe on this computer: the trainer in a process of its own, and what it measured kept as a note beside the ledger."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import probing
from lumina_cloud.api.probing import KEPT_SECONDS, LAYOUT_FIELDS, Probe
from lumina_cloud.core import money, untrusted
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import ProviderError, RefusedError
from lumina_cloud.planner.learning import Kind, family_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lumina_cloud.ledger import MetricRecord
    from lumina_cloud.planner.plan import Row
    from trainer.config import RunConfig

TIMEOUT_SECONDS = 900.0
WHERE = "on this computer"
_WITHOUT = "plan without --probe"


def known(home: Path, configs: Iterable[RunConfig], fixed: frozenset[str] = frozenset()) -> dict[Kind, Probe]:
    """Return the probes of these workloads that were made on this computer, in the precision in which it would compute them.

    `fixed` names what the user has said: a default of bf16 is fp32 where the processor has no 16-bit arithmetic.
    """
    from lumina_cloud.api.cpu_benchmark import precision_here

    made: dict[Kind, Probe] = {}
    for config in configs:
        precision = precision_here(config.training.precision, fixed="precision" in fixed)
        found = _kept(home, replace(config, training=replace(config.training, precision=precision)))
        if found is not None:
            made[Kind("cpu", "local", 1, family_of(config.preset, config.model.arch))] = found
    return made


def probe(home: Path, row: Row) -> Probe:
    """Run a few real steps and keep what they measured. Raises RefusedError without the trainer, ProviderError when it fails."""
    missing = [name for name in ("torch", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(f"a probe trains, and needs {' and '.join(missing)}", "pip install 'lumina-cloud[trainer]'")
    from lumina_cloud.planner.plan import estimate

    config = probing.shortened(row.estimate.config, dict(row.estimate.modelled)["tokens_per_second"])
    began = time.monotonic()
    steps, result = _train(config)
    seconds = time.monotonic() - began
    modelled = dict(estimate(config, row.machine, LAYOUT_FIELDS).modelled)
    usd = money.text(money.for_hours(row.machine.usd_per_hour, seconds / 3600))
    found = probing.measured(steps, result, modelled, seconds=seconds, at_work=seconds, usd=usd)
    if found is None:
        raise ProviderError("the probe ended without saying how fast it was", _WITHOUT)
    keep(home, row.estimate.config, found)
    return found


def keep(home: Path, config: RunConfig, found: Probe) -> None:
    """Write down what a probe of a workload measured, for the plans and launches after it."""
    path = _file(home, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(asdict(found)), encoding="utf-8")
    partial.replace(path)


def _train(config: RunConfig) -> tuple[list[MetricRecord], dict[str, Any]]:
    """Return the steps and the result of a training run that leaves nothing else. Raises ProviderError."""
    from lumina_cloud.runs import ingest

    with tempfile.TemporaryDirectory(prefix="lumina-probe-") as folder:
        run, out = Path(folder, "run.json"), Path(folder, "out")
        run.write_text(config.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "trainer", "train", "--config", str(run), "--out", str(out)]
        try:
            with edge("local.probe"):
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProviderError(f"the probe did not end: {untrusted.line(error, 200)}", _WITHOUT) from error
        result = untrusted.json_object((out / "result.json").read_bytes()) if (out / "result.json").is_file() else None
        if done.returncode or result is None:
            said = untrusted.block(done.stderr[-2000:], max_lines=3)
            raise ProviderError(f"the probe failed with exit code {done.returncode}: {said}", _WITHOUT)
        lines = (out / "metrics.jsonl").read_bytes().split(b"\n") if (out / "metrics.jsonl").is_file() else []
        return ingest.metrics("probe", lines), result


def _this_computer() -> tuple[object, ...]:
    """Return what a measurement stands and falls with beside its workload: the cores, and the releases of what ran on them."""
    from lumina_cloud import __version__
    from lumina_cloud.api.cpu_benchmark import usable_cores

    found = [dist.version for name in ("torch", "deepspeed") for dist in importlib.metadata.distributions(name=name)]
    return (usable_cores(), platform.machine(), __version__, *found)


def _kept(home: Path, config: RunConfig) -> Probe | None:
    path = _file(home, config)
    try:
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            return None
        return Probe(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # None was made, or one by another release: it is made again when asked for.
        return None


def _file(home: Path, config: RunConfig) -> Path:
    """Return where a workload's probe is kept: model, sequence and arithmetic decide, and what this computer and its torch are."""
    t = config.training
    key = json.dumps([asdict(config.model), t.seq_len, t.precision, t.optimizer, config.preset, *_this_computer()], sort_keys=True)
    return home / "probes" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

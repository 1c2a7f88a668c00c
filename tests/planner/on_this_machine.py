"""Held against this computer: `python -m tests.planner.on_this_machine` predicts small training runs, does them, and prints both.

A 1 M and a 33 M-parameter model of each architecture, time per step and peak memory, before any probe: the processor is measured once,
as at its first use, and nothing is known of the models. Leaves with 1 when one of the figures is off by more than 20 %. Runs take some
minutes, and say something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from statistics import median

import psutil

from lumina_cloud.api.cpu_benchmark import local_cpu
from lumina_cloud.planner.estimate import Estimate, Machine
from lumina_cloud.planner.plan import estimate
from trainer.config import ARCHS, RunConfig, count_parameters, preset, with_layout

OFF = 0.2
SEQ_LEN, FIRST = 512, 3
BATCH, STEPS = {"1 M": 8, "33 M": 2}, {"1 M": 14, "33 M": 9}
SIZES = {
    "1 M": {"n_layers": 4},
    "33 M": {"d_model": 512, "n_layers": 11, "n_heads": 8, "n_kv_heads": 4, "d_ff": 1408, "d_expert": 704, "d_predictor": 32},
}


@dataclass(frozen=True)
class Held:
    """One figure, predicted and measured."""

    name: str
    low: float
    mid: float
    high: float
    measured: float

    @property
    def off(self) -> float:
        """Predicted over measured, less one."""
        return self.mid / self.measured - 1


def workload(size: str, arch: str, precision: str) -> RunConfig:
    """Return a short run of a model on this computer."""
    config = preset("debug", arch)  # type: ignore[arg-type]
    batch = BATCH[size] * SEQ_LEN
    tokens = STEPS[size] * batch
    training = replace(
        config.training,
        seq_len=SEQ_LEN,
        global_batch_tokens=batch,
        tokens=tokens,
        unique_tokens=tokens,
        validation_tokens=8192,
        precision=precision,  # type: ignore[arg-type]
    )
    return replace(config, model=replace(config.model, **SIZES[size]), training=training, device="cpu")  # type: ignore[arg-type]


def run(config: RunConfig) -> tuple[float, float]:
    """Train, and return seconds per step, the first few left out, and the most memory in GiB.

    With one thread it is processor time that counts, as in `trainer.calibrate`: others on the machine disturb it less.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder, "run.json"), Path(folder, "out")
        job.write_text(config.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "trainer", "train", "--config", str(job), "--out", str(out)]
        began = _began(command, out / "metrics.jsonl")
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return median(later - earlier for earlier, later in itertools.pairwise(began[FIRST:])), result["peak_memory_gib"]


def _began(command: list[str], metrics: Path) -> list[float]:
    """Run a training command and return when each step was reported, in seconds of its processor time or of the clock."""
    training = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moments: list[float] = []
    while training.poll() is None:
        with contextlib.suppress(psutil.Error):
            used = training.cpu_times()
            now = used.user + used.system if os.environ.get("OMP_NUM_THREADS") == "1" else time.monotonic()
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
            steps = sum('"tokens_per_second"' in line for line in lines)
            moments += [now] * (steps - len(moments))
        time.sleep(0.005)
    if training.returncode:
        raise SystemExit(f"the trainer ended with {training.returncode}")
    return moments


def held(predicted: Estimate, seconds: float, gib: float) -> tuple[Held, Held]:
    """Return time per step and memory, predicted and measured."""
    batch, speed, memory = predicted.config.training.global_batch_tokens, predicted.tokens_per_second, predicted.memory_gib
    return (
        Held("seconds a step", batch / speed.high, batch / speed.mid, batch / speed.low, seconds),
        Held("GiB", memory.low, memory.mid, memory.high, gib),
    )


def main() -> int:
    """Predict, train, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.planner.on_this_machine", description="Holds predictions against this computer.")
    parser.add_argument("--size", choices=SIZES, action="append", help="one of the sizes; both without it")
    parser.add_argument("--arch", choices=ARCHS, action="append")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        machine = Machine("local", local_cpu(Path(home), measure=options.precision), 1, Decimal("0.05"), interruptible=False)
    print(f"{machine.gpu.cores} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    worst = 0.0
    for size in options.size or SIZES:
        for arch in options.arch or ARCHS:
            predicted = estimate(workload(size, arch, options.precision), machine)
            millions = count_parameters(predicted.config.model).total / 1e6
            for figure in held(predicted, *run(with_layout(predicted.config, predicted.config.layout))):
                worst = max(worst, abs(figure.off))
                predicted_as = f"predicted {figure.mid:8.3f} ({figure.low:.3f} to {figure.high:.3f})"
                measured_as = f"measured {figure.measured:8.3f}  {figure.off:+.1%}"
                print(f"{size:5} {arch:7} {millions:6.1f} M  {figure.name:15} {predicted_as}  {measured_as}", flush=True)
    print(f"largest difference {worst:.1%}, to be at most {OFF:.0%}, load {os.getloadavg()[0]:.1f}")
    return int(worst > OFF)


if __name__ == "__main__":
    sys.exit(main())

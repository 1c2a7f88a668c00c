"""`lumina plan --probe`: a few real steps of the real configuration on this computer, before anything is committed to.

The trainer itself runs, with the plan's layout and a few micro batches a step, and its own measurements of speed and peak memory replace
the modelled ones. They are kept, so that the launch of the same workload goes by them too. On rented machines a probe needs a rental of its
own; that is not done here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.core import money, untrusted
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import ProviderError, RefusedError, UsageError
from lumina_cloud.planner.learning import Lesson, Lessons, Shift
from trainer.config import LayoutConfig, with_layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lumina_cloud.planner.learning import Figure
    from lumina_cloud.planner.plan import Plan, Row
    from trainer.config import RunConfig

WANTED_SECONDS = 30.0
"""Of steps, by the modelled speed."""
LEAST_STEPS, MOST_STEPS = 12, 200
MOST_ACCUMULATION = 4
"""Micro batches of a probed step: memory is the same from two on, and many short steps tell more than one long one."""
TIMEOUT_SECONDS = 900.0
KEPT_SECONDS = 30 * 86_400.0
"""A measurement that is older is made again: drivers, libraries and what else runs on a computer change."""
LEARNED_AS = 50
"""Runs that a probe counts as: what it measured stands for what was modelled."""


@dataclass(frozen=True)
class Probe:
    """What a probe measured, what was modelled, and what it cost."""

    tokens_per_second: float
    peak_memory_gib: float
    modelled_tokens_per_second: float
    modelled_memory_gib: float
    seconds: float
    usd: str
    steps: int
    overhead_seconds: float = 0.0
    """Beside its steps: start, data, evaluation, saving; 0 in a note of a release that did not keep it."""
    modelled_overhead_seconds: float = 0.0
    """Of the same short run."""


LAYOUT_FIELDS = frozenset(f.name for f in fields(LayoutConfig))


class Probed(Lessons):
    """What finished runs teach, with what a probe of this very workload measured in its place."""

    def __init__(self, lessons: Lessons, probes: dict[tuple[str, str, str], Probe]) -> None:
        super().__init__()
        self._lessons, self._probes = lessons, probes

    def of(self, figure: Figure, gpu: str, provider: str, family: str) -> Lesson:
        """Return what is known of a figure: the probe's word where there is one."""
        probe = self._probes.get((gpu, provider, family))
        pair = None if probe is None else _pair(probe, figure)
        if pair is None:
            return self._lessons.of(figure, gpu, provider, family)
        measured, modelled = pair
        return Lesson(
            (
                (
                    f"probe of this workload: {measured:,.4g} measured, {modelled:,.4g} modelled",
                    Shift(math.log(measured / modelled), LEARNED_AS, LEARNED_AS),
                ),
            )
        )


def _pair(probe: Probe, figure: Figure) -> tuple[float, float] | None:
    if figure == "tokens_per_second":
        return probe.tokens_per_second, probe.modelled_tokens_per_second
    if figure == "overhead":
        pair = probe.overhead_seconds, probe.modelled_overhead_seconds
        return pair if min(pair) > 0 else None
    return (probe.peak_memory_gib, probe.modelled_memory_gib) if figure == "memory" else None


def known(home: Path, configs: Iterable[RunConfig], lessons: Lessons) -> Lessons:
    """Return what is known with the probes of these workloads, where some were made on this computer."""
    from lumina_cloud.planner.plan import family_of

    # A default of bf16 is computed, and probed, in fp32 where the processor has no 16-bit arithmetic.
    ways = [way for config in configs for way in (replace(config, training=replace(config.training, precision="fp32")), config)]
    probes = {("cpu", "local", family_of(config)): probe for config in ways if (probe := _kept(home, config)) is not None}
    return Probed(lessons, probes) if probes else lessons


def row_to_probe(plan: Plan) -> Row:
    """Return the row of a plan that is probed: the recommended one. Raises UsageError where none is on this computer."""
    best = plan.recommendation
    if best is None:
        raise UsageError("nothing fits, so there is nothing to probe", "a smaller model, or --set micro_batch=1")
    if best.row.machine.provider != "local":
        raise UsageError(
            f"--probe measures on this computer, and the plan takes {best.row.machine.gpu.name} at {best.row.machine.provider}",
            "--provider local --probe",
        )
    return best.row


def probe(home: Path, row: Row) -> Probe:
    """Run a few real steps and keep what they measured. Raises RefusedError without the trainer, ProviderError when it fails."""
    missing = [name for name in ("torch", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(f"a probe trains, and needs {' and '.join(missing)}", "pip install 'lumina-cloud[trainer]'")
    from lumina_cloud.planner.plan import estimate

    modelled = dict(row.estimate.modelled)
    config = _short(row.estimate.config, modelled["tokens_per_second"])
    began = time.monotonic()
    result = _train(config)
    seconds = time.monotonic() - began
    speed = untrusted.number(result.get("tokens_per_second"), 1e-3, 1e9)
    peak = untrusted.number(result.get("peak_memory_gib"), 1e-3, 1e5)
    if speed is None or peak is None:
        raise ProviderError("the probe ended without saying how fast it was", "plan without --probe")
    usd = money.text(money.for_hours(row.machine.usd_per_hour, seconds / 3600))
    beside = max(0.0, seconds - config.training.tokens / speed)
    found = Probe(
        tokens_per_second=speed,
        peak_memory_gib=peak,
        modelled_tokens_per_second=modelled["tokens_per_second"],
        modelled_memory_gib=modelled["memory"],
        seconds=seconds,
        usd=usd,
        steps=config.training.steps,
        overhead_seconds=beside,
        modelled_overhead_seconds=3600 * dict(estimate(config, row.machine, LAYOUT_FIELDS).modelled)["overhead"],
    )
    keep(home, row.estimate.config, found)
    return found


def keep(home: Path, config: RunConfig, found: Probe) -> None:
    """Write down what a probe of a workload measured, for the plans and launches after it."""
    path = _file(home, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(asdict(found)), encoding="utf-8")
    partial.replace(path)


def notes(found: Probe, before: Row, after: Row) -> list[str]:
    """Return what a probe cost and what it changed, in words."""
    b, a = before.estimate, after.estimate
    return [
        f"probed: {found.steps} real steps on this computer in {found.seconds:.0f} s, which cost {money.show(money.usd(found.usd))}",
        f"the probe changed: tokens/s {_speed(before)} to {_speed(after)}; "
        f"memory {b.memory_gib.mid:.2f} to {a.memory_gib.mid:.2f} GiB; "
        f"hours {b.hours.mid:.3g} to {a.hours.mid:.3g}; cost {money.show(b.usd.mid)} to {money.show(a.usd.mid)}",
    ]


def _speed(row: Row) -> str:
    s = row.estimate.tokens_per_second
    return f"{s.mid:,.0f} ({s.low:,.0f}-{s.high:,.0f})"


def _short(config: RunConfig, tokens_per_second: float) -> RunConfig:
    """Return the configuration with few, short steps: its model, sequence, micro batch and everything else as they are."""
    layout, training = config.layout, config.training
    accumulation = min(layout.grad_accum, MOST_ACCUMULATION)
    batch = layout.micro_batch * layout.n_gpus * training.seq_len * accumulation
    steps = max(LEAST_STEPS, min(MOST_STEPS, round(WANTED_SECONDS * tokens_per_second / batch)))
    tokens = steps * batch
    short = replace(training, global_batch_tokens=batch, tokens=tokens, unique_tokens=min(training.unique_tokens, tokens))
    short = replace(short, validation_tokens=min(training.validation_tokens, 16 * training.seq_len), trackers="")
    return with_layout(replace(config, training=short), layout)


def _train(config: RunConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lumina-probe-") as folder:
        run, out = Path(folder, "run.json"), Path(folder, "out")
        run.write_text(config.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "trainer", "train", "--config", str(run), "--out", str(out)]
        try:
            with edge("local.probe"):
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProviderError(f"the probe did not end: {untrusted.line(error, 200)}", "plan without --probe") from error
        result = untrusted.json_object((out / "result.json").read_bytes()) if (out / "result.json").is_file() else None
        if done.returncode or result is None:
            said = untrusted.block(done.stderr[-2000:], max_lines=3)
            raise ProviderError(f"the probe failed with exit code {done.returncode}: {said}", "plan without --probe")
        return result


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

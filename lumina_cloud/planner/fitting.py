"""The constants of speed, fitted to measured runs: what `lumina accuracy --physics --fit` computes.

A maximum a posteriori estimate. The logarithm of measured speed is the logarithm of estimated speed plus an error with heavy tails
(Student's t, by reweighting); each constant has a prior around its value from physics, each framework and GPU a factor with a
prior around 1, so one with few rows is drawn to the others. Solved by Levenberg-Marquardt in plain Python: some thirty unknowns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lumina_cloud.planner import throughput
from lumina_cloud.planner.constants import REFERENCE_GPU, SpeedConstants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape

PRIORS: Mapping[str, tuple[float, float]] = {
    "matmul": (0.85, 0.10),
    "half_width": (120.0, 0.15),
    "half_rows": (256.0, 0.5),
    "attention": (0.45, 0.3),
    "attention_recent": (0.28, 0.4),
    "narrow_heads": (0.3, 0.5),
    "passes": (2.5, 0.5),
    "compiled_passes": (0.6, 0.3),
    "unfused_passes": (1.5, 0.3),
    "fp8_gain": (0.5, 0.4),
    "grouped": (0.6, 0.3),
    "grouped_own": (0.6, 0.3),
    "overlap": (0.6, 0.3),
    "never_hidden": (0.15, 0.5),
    "launch_us": (5.0, 0.3),
}
"""Middle and standard deviation of the logarithm."""

FRAMEWORK_SD, GPU_SD = 0.20, 0.08
ERROR_SD = 0.05
DEGREES_OF_FREEDOM = 3.0


@dataclass(frozen=True)
class Observation:
    """One measured run. `weight` is below 1 where the measurement itself is doubtful."""

    name: str
    shape: Shape
    setting: Setting
    gpu: Gpu
    tokens_per_second_per_gpu: float
    weight: float = 1.0


def starting_point() -> SpeedConstants:
    """Return the constants at the middle of their priors."""
    middles: dict[str, Any] = {name: middle for name, (middle, _) in PRIORS.items()}
    return SpeedConstants(**middles)


def log_error(o: Observation, c: SpeedConstants) -> float:
    """Return ln(measured / estimated)."""
    found = throughput.of_setting(o.shape, o.setting, o.gpu, c).tokens_per_second.mid / o.setting.n_gpus
    return math.log(o.tokens_per_second_per_gpu / found)


def fit(observations: Sequence[Observation], start: SpeedConstants | None = None, rounds: int = 12) -> SpeedConstants:
    """Return the most probable constants after `observations`."""
    c = start or starting_point()
    names = list(PRIORS)
    frameworks = sorted({o.setting.framework for o in observations})
    gpus = sorted({o.gpu.name for o in observations} - {REFERENCE_GPU})
    c = replace(c, frameworks={f: c.frameworks.get(f, 1.0) for f in frameworks}, gpus={g: c.gpus.get(g, 1.0) for g in gpus})
    for _ in range(rounds):
        c, moved = _step(observations, c, names, frameworks, gpus)
        if moved < 1e-3:
            break
    return c


def _step(
    observations: Sequence[Observation], c: SpeedConstants, names: list[str], frameworks: list[str], gpus: list[str]
) -> tuple[SpeedConstants, float]:
    size = len(names) + len(frameworks) + len(gpus)
    normal = [[0.0] * size for _ in range(size)]
    right = [0.0] * size
    nudge = 1e-3
    nudged = [replace(c, **{name: getattr(c, name) * math.exp(nudge)}) for name in names]
    for o in observations:
        error = log_error(o, c)
        row = [(error - log_error(o, other)) / nudge for other in nudged]
        row += [float(o.setting.framework == f) for f in frameworks] + [float(o.gpu.name == g) for g in gpus]
        scaled = error / ERROR_SD
        weight = o.weight * (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + scaled**2) / ERROR_SD**2
        used = [i for i, value in enumerate(row) if value]
        for i in used:
            right[i] += weight * row[i] * error
            for j in used:
                normal[i][j] += weight * row[i] * row[j]
    _add_priors(normal, right, c, names=names, frameworks=frameworks, gpus=gpus)
    moves = [max(-0.3, min(0.3, move)) for move in _solve(normal, right)]
    n, k = len(names), len(names) + len(frameworks)
    moved = replace(
        c,
        **{name: getattr(c, name) * math.exp(move) for name, move in zip(names, moves[:n], strict=True)},
        frameworks={f: c.frameworks[f] * math.exp(move) for f, move in zip(frameworks, moves[n:k], strict=True)},
        gpus={g: c.gpus[g] * math.exp(move) for g, move in zip(gpus, moves[k:], strict=True)},
    )
    return moved, max(map(abs, moves))


def _add_priors(
    normal: list[list[float]], right: list[float], c: SpeedConstants, *, names: list[str], frameworks: list[str], gpus: list[str]
) -> None:
    priors = [(math.log(PRIORS[name][0] / getattr(c, name)), PRIORS[name][1]) for name in names]
    priors += [(-math.log(c.frameworks[f]), FRAMEWORK_SD) for f in frameworks]
    priors += [(-math.log(c.gpus[g]), GPU_SD) for g in gpus]
    for i, (away, sd) in enumerate(priors):
        normal[i][i] += 1 / sd**2
        right[i] += away / sd**2


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system by Gaussian elimination."""
    n = len(right)
    rows = [[*matrix[i], right[i]] for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            ratio = rows[j][i] / rows[i][i]
            if ratio:
                rows[j] = [a - ratio * b for a, b in zip(rows[j], rows[i], strict=True)]
    out = [0.0] * n
    for i in reversed(range(n)):
        out[i] = (rows[i][n] - sum(rows[i][k] * out[k] for k in range(i + 1, n))) / rows[i][i]
    return out

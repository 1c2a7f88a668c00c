"""What a run writes about itself: `metrics.jsonl`, `heartbeat.json`, lines on standard output, `result.json`, `ended.json`.

The heartbeat is what the orchestrator reads. Besides where the run stands it holds its speed, when it will end at that speed, and how
both compare with the plan, so that a run which drifts is noticed.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from trainer.config import PlanConfig, count_flops
from trainer.host_memory import highest_resident_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.config import RunConfig
    from trainer.trackers import Tracker

HEARTBEAT_SECONDS = 1.0
LINE_SECONDS = 1.0
RECENT_STEPS = 20
FIRST_STEPS = 2
"""Of a start, also after a resume: they compile and fill the allocator's caches, and are no recent speed once there are others."""


class Reports:
    """Files and lines of one run. Only rank 0 writes."""

    def __init__(self, out: Path, config: RunConfig, *, writes: bool, trackers: tuple[Tracker, ...] = ()) -> None:
        self.out, self._writes, self._trackers = out, writes, trackers
        self._steps, self._plan = config.training.steps, config.plan
        self._flops_per_token = count_flops(config.model, config.training.seq_len).train
        self._beat: dict[str, Any] = {"phase": "preparing", "step": 0, "steps": self._steps, "tokens": 0}
        self._beat_at = self._line_at = 0.0
        self._metrics = out / "metrics.jsonl"
        self._speeds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._told = 0
        self._line = _RichLine() if writes and sys.stdout.isatty() else None

    def begin(self, last_step: int) -> None:
        """Keep the metrics of steps up to `last_step`: each step is told once, also after a resume."""
        if not self._writes:
            return
        kept = []
        if self._metrics.is_file():
            lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if 0 < _step_of(line) <= last_step]
        partial = self._metrics.with_name(".metrics.jsonl.part")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(self._metrics)

    def phase(self, phase: str, **figures: Any) -> None:
        """Tell at once that something else is being done now."""
        self._beat.update(figures, phase=phase)
        self._beat_at = 0.0
        self.alive()

    def alive(self, **figures: Any) -> None:
        """Write the heartbeat if the last is old."""
        self._beat.update(figures)
        if self._writes and time.monotonic() - self._beat_at >= HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            write_json(self.out / "heartbeat.json", {**self._beat, "at": _stamp(datetime.now(UTC))})

    def step(self, figures: dict[str, Any]) -> None:
        """Tell of one optimizer step."""
        if not self._writes:
            return
        with self._metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(figures) + "\n")
        for tracker in self._trackers:
            tracker.step(figures)
        self._told += 1
        if self._told == FIRST_STEPS + 1:
            self._speeds.clear()
        self._speeds.append(figures["tokens_per_second"])
        speed = recent_speed(self._speeds)
        left = (self._steps - figures["step"]) * figures["tokens"] / figures["step"] / speed
        told = {k: figures[k] for k in ("step", "tokens", "loss", "tokens_per_second", "seconds", "skipped_batches") if k in figures}
        self.alive(**told, **projection(self._plan, speed=speed, done=figures["seconds"], left=left, now=datetime.now(UTC)))
        every = max(1, self._steps // 50)
        last = figures["step"] == self._steps
        is_turn = figures["step"] % every == 0 and time.monotonic() - self._line_at >= LINE_SECONDS
        if self._line is not None:
            self._line.update(self._words(figures, speed, left), figures["step"] / self._steps)
        elif is_turn or last or figures["step"] == 1:
            self._line_at = time.monotonic()
            print(self._words(figures, speed, left), flush=True)

    def _words(self, figures: dict[str, Any], speed: float, left: float) -> str:
        words = [
            f"step {figures['step']}/{self._steps}",
            f"loss {figures['loss']:.3f}",
            f"lr {figures['lr']:.1e}",
            f"{speed:,.0f} tokens/s",
        ]
        if self._plan.peak_tflops:
            words.append(f"utilisation {utilisation(self._plan, self._flops_per_token, speed):.0%}")
        rate = _decimal(self._plan.usd_per_hour)
        if rate:
            spent = rate * Decimal(figures["seconds"]) / 3600
            words.append(f"spent ${spent:.2f}, remaining ${rate * Decimal(left) / 3600:.2f}")
        return "  ".join([*words, f"eta {_clock(left)}"])

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._writes:
            return
        if self._line is not None:
            self._line.say(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Finish what is open."""
        if self._line is not None:
            self._line.close()
        for tracker in self._trackers:
            tracker.close()


class _RichLine:
    """One line on a terminal that renews itself."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"))
        self._task = self._progress.add_task("", total=1.0)
        self._progress.start()

    def update(self, words: str, share: float) -> None:
        self._progress.update(self._task, description=words, completed=share)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def recent_speed(speeds: Sequence[float]) -> float:
    """Return the tokens per second of steps alike in tokens, all their time together; the slowest fifth of three or more is left out.

    A median would be blind to stalls of up to half the steps, and a mean be told by one.
    """
    slow = max(1, len(speeds) // 5) if len(speeds) > 2 else 0
    fastest = sorted(speeds, reverse=True)[: len(speeds) - slow]
    return len(fastest) / sum(1 / speed for speed in fastest)


def utilisation(plan: PlanConfig, flops_per_token: float, tokens_per_second: float) -> float:
    """Return the share of the GPUs' peak that the model's FLOPs take."""
    return flops_per_token * tokens_per_second / (plan.peak_tflops * 1e12)


def projection(plan: PlanConfig, *, speed: float, done: float, left: float, now: datetime) -> dict[str, Any]:
    """Return when the steps will end, and speed and time over the planned ones (`drift`; 1 is as planned)."""
    figures: dict[str, Any] = {
        "recent_tokens_per_second": speed,
        "remaining_seconds": left,
        # Beyond any date there is none.
        "projected_end": _stamp(now + timedelta(seconds=min(left, 1e9))),
    }
    if plan.tokens_per_second > 0:
        figures["speed_over_plan"] = speed / plan.tokens_per_second
    if plan.seconds > 0:
        figures["seconds_over_plan"] = (done + left) / plan.seconds
    return figures


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is complete or as it was."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def write_ended(out: Path, code: int, reason: str, message: str) -> None:
    """Write down how a run ended: under a launcher the exit code is the launcher's, not ours. On a full disk it is only said."""
    try:
        write_json(out / "ended.json", {"code": code, "reason": reason, "message": message})
    except OSError as unwritable:
        print(f"ended.json cannot be written: {unwritable}", flush=True)


def peak_memory_gib(device: str) -> float:
    """Return the most memory that was in use: of the GPU as torch counts it, else of this process."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / 2**30)
    return highest_resident_bytes() / 2**30


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text or "0")
    except InvalidOperation:
        return Decimal(0)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"

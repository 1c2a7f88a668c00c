"""What a run writes about itself: `metrics.jsonl`, `heartbeat.json`, lines on standard output, `result.json`."""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

HEARTBEAT_SECONDS = 1.0
LINE_SECONDS = 1.0


class Reports:
    """Files and lines of one run. Only rank 0 writes."""

    def __init__(self, out: Path, steps: int, *, writes: bool) -> None:
        self._out, self._steps, self._writes = out, steps, writes
        self._beat: dict[str, Any] = {"phase": "preparing", "step": 0, "steps": steps, "tokens": 0}
        self._beat_at = self._line_at = 0.0
        self._metrics = out / "metrics.jsonl"

    def begin(self, last_step: int) -> None:
        """Keep the metrics of steps up to `last_step`: each step is told once, also after a resume."""
        if not self._writes:
            return
        kept = []
        if self._metrics.is_file():
            kept = [line for line in self._metrics.read_text(encoding="utf-8").splitlines() if 0 < _step_of(line) <= last_step]
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
            write_json(self._out / "heartbeat.json", {**self._beat, "at": datetime.now(UTC).isoformat(timespec="milliseconds")})

    def step(self, figures: dict[str, Any]) -> None:
        """Tell of one optimizer step."""
        if not self._writes:
            return
        with self._metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(figures) + "\n")
        self.alive(**{k: figures[k] for k in ("step", "tokens", "loss", "tokens_per_second", "seconds")})
        every = max(1, self._steps // 50)
        last = figures["step"] == self._steps
        if (figures["step"] % every == 0 and time.monotonic() - self._line_at >= LINE_SECONDS) or last or figures["step"] == 1:
            self._line_at = time.monotonic()
            left = (self._steps - figures["step"]) * figures["tokens"] / figures["step"] / figures["tokens_per_second"]
            self.say(
                f"step {figures['step']}/{self._steps}  loss {figures['loss']:.3f}  lr {figures['lr']:.1e}  "
                f"{figures['tokens_per_second']:,.0f} tokens/s  eta {_clock(left)}"
            )

    def say(self, text: str) -> None:
        """Print one line."""
        if self._writes:
            print(text, flush=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is complete or as it was."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def peak_memory_gib(device: str) -> float:
    """Return the most memory that was in use: of the GPU as torch counts it, else of this process."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / 2**30)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"

"""Which losses are not to be trained on: not finite, or far above what the last steps had."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

WINDOW, LEAST = 64, 16


class Losses:
    """The losses of the last steps."""

    def __init__(self, spike_nats: float) -> None:
        self.spike_nats = spike_nats
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float) -> None:
        """Remember a step's loss."""
        self._recent.append(loss)

    def recent(self) -> list[float]:
        """Return what is remembered, for a checkpoint."""
        return list(self._recent)

    def resume(self, losses: list[float]) -> None:
        """Go on with what a checkpoint remembered."""
        self._recent = deque(losses, maxlen=WINDOW)

    def fault(self, loss: float) -> str:
        """Return what is wrong with a loss, empty when nothing is."""
        if not math.isfinite(loss):
            return f"is {loss}"
        if len(self._recent) >= LEAST:
            usual = median(self._recent)
            if loss > usual + self.spike_nats:
                return f"jumped to {loss:.3f}, and the last {len(self._recent)} steps had {usual:.3f} in the middle"
        return ""

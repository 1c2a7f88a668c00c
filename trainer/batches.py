"""Which sequences a step reads: a pure function of seed, step and rank, so that resuming is exact and ranks never overlap.

`Loader` reads ahead of the training in a thread, so that the step does not wait for the disk.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainer.config import LayoutConfig
    from trainer.shards import Index

AHEAD = 4
"""Micro batches that are read before they are asked for."""


class Windows:
    """A split as overlapping windows of `seq_len` + 1 tokens: inputs, and the same shifted by one as targets."""

    def __init__(self, folder: Path, index: Index, split: str, seq_len: int) -> None:
        self._seq_len = seq_len
        shards = getattr(index, split)
        self._maps = [np.memmap(folder / shard.file, dtype=index.dtype, mode="r") for shard in shards]
        self._starts = np.cumsum([0, *((shard.tokens - 1) // seq_len for shard in shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        start = (number - int(self._starts[shard])) * self._seq_len
        return np.asarray(self._maps[shard][start : start + self._seq_len + 1], dtype=np.int64)

    def batch(self, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, each [len(numbers), seq_len]."""
        rows = torch.from_numpy(np.stack([self[n] for n in numbers]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class Order:
    """The order in which sequences are read: each epoch is a permutation of all windows, drawn from the seed."""

    def __init__(self, n_windows: int, seed: int) -> None:
        self._n_windows, self._seed = n_windows, seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> int:
        """Return the window that is read at a position of the endless stream."""
        epoch, place = divmod(position, self._n_windows)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self._n_windows)
        return int(self._permutation[place])


def positions(step: int, rank: int, *, world: int, micro_batch: int, grad_accum: int) -> Iterator[list[int]]:
    """Yield the stream positions of each micro batch of one rank in a step (from 0).

    A step reads world x micro_batch x grad_accum consecutive positions; ranks take turns within it.
    """
    start = step * world * micro_batch * grad_accum
    for micro in range(grad_accum):
        first = start + (micro * world + rank) * micro_batch
        yield list(range(first, first + micro_batch))


Batch = tuple[torch.Tensor, torch.Tensor]


class Loader:
    """The micro batches of one rank from a step on, read ahead in a thread; as many as there are steps."""

    def __init__(self, windows: Windows, seed: int, layout: LayoutConfig, rank: int, *, steps: range, pinned: bool = False) -> None:
        self.waited = 0.0
        """Seconds that `next` had to wait."""
        self._windows, self._order, self._pinned = windows, Order(len(windows), seed), pinned
        self._layout, self._rank, self._steps = layout, rank, steps
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="loader", daemon=True).start()

    def next(self) -> Batch:
        """Return the next micro batch: inputs and targets, each [micro_batch, seq_len]."""
        started = time.perf_counter()
        got = self._queue.get()
        self.waited += time.perf_counter() - started
        if isinstance(got, Exception):
            raise got
        return got

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()

    def _run(self) -> None:
        try:
            for batch in self._batches():
                if not self._put(batch):
                    return
            self._put(IndexError("no step is left to read for"))
        except Exception as error:  # noqa: BLE001 (raised where the batch is asked for)
            self._put(error)

    def _batches(self) -> Iterator[Batch]:
        layout = self._layout
        for step in self._steps:
            for places in positions(step, self._rank, world=layout.n_gpus, micro_batch=layout.micro_batch, grad_accum=layout.grad_accum):
                inputs, targets = self._windows.batch([self._order[place] for place in places])
                yield (inputs.pin_memory(), targets.pin_memory()) if self._pinned else (inputs, targets)

    def _put(self, item: Batch | Exception) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

"""Which sequences a step reads: a pure function of seed, step and rank, so that resuming is exact and ranks never overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainer.shards import Index


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

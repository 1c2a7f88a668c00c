"""How ranks find each other, again and again: torchrun keeps one store through all restarts, and what the dead left in it must not be read.

Every start therefore agrees on a name of its own, under which everything else is exchanged. Rank 0 gives it out; the others ask with a
word that nobody used before, so no answer can be an old one.
"""

from __future__ import annotations

import secrets
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import Store

_POLL_SECONDS = 0.02


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def join(timeout_seconds: float) -> tuple[Store, int, int]:
    """Return a store that is this start's alone, the rank, and the number of ranks, from the environment that torchrun sets."""
    store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
    if world == 1:
        return store, rank, world
    name = _given(store, world) if rank == 0 else _asked(store, rank)
    return dist.PrefixStore(f"start/{name}", store), rank, world


def _given(store: Store, world: int) -> str:
    """Answer every other rank's newest word with a new name until all have taken it."""
    name, answered = secrets.token_hex(8), dict[int, str]()
    while store.add(f"taken/{name}", 0) < world - 1:
        for rank in range(1, world):
            if store.check([f"asks/{rank}"]):
                word = store.get(f"asks/{rank}").decode()
                if answered.get(rank) != word:
                    store.set(f"answer/{word}", name)
                    answered[rank] = word
        time.sleep(_POLL_SECONDS)
    return name


def _asked(store: Store, rank: int) -> str:
    word = secrets.token_hex(8)
    store.set(f"asks/{rank}", word)
    while not store.check([f"answer/{word}"]):
        time.sleep(_POLL_SECONDS)
    name = store.get(f"answer/{word}").decode()
    store.add(f"taken/{name}", 1)
    return name

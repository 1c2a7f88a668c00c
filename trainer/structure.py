"""What one training step executes, found without running it for real: FLOPs, operators, graph breaks, host synchronisations.

Speed on a GPU follows from these, and a machine without one can count them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import count_flops
from trainer.model import Model
from trainer.moe import grouped_mm_flops

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import ModelConfig


MISSED = {torch.ops.aten._grouped_mm: grouped_mm_flops} if hasattr(torch.ops.aten, "_grouped_mm") else {}
"""Operators that torch's counter takes for free, and that other code may register."""


def meta_step(config: ModelConfig, *, micro_batch: int, seq_len: int) -> Callable[[], None]:
    """Return a forward and backward pass of a model without storage: shapes only, any size, in seconds."""
    with torch.device("meta"):
        model = Model(config)
        tokens = torch.zeros(micro_batch, seq_len, dtype=torch.int64)

    def step() -> None:
        loss, auxiliary, _ = model(tokens, tokens)
        (loss + auxiliary).backward()

    return step


def executed_flops(config: ModelConfig, *, seq_len: int, micro_batch: int = 1) -> float:
    """Return the FLOPs per token that a training step executes, by torch's counter on a model without storage."""
    counter = FlopCounterMode(display=False, custom_mapping=MISSED)
    step = meta_step(config, micro_batch=micro_batch, seq_len=seq_len)
    with counter:
        step()
    return counter.get_total_flops() / (micro_batch * seq_len)


def flops_over_formula(config: ModelConfig, *, seq_len: int, micro_batch: int = 1) -> float:
    """Return executed FLOPs over `trainer.config.count_flops`."""
    return executed_flops(config, seq_len=seq_len, micro_batch=micro_batch) / count_flops(config, seq_len).train


class Operators(TorchDispatchMode):
    """Counts what is dispatched while it is entered, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and call."""
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(step: Callable[[], object]) -> Counter[str]:
    """Return how often each operator is dispatched in one call of `step`."""
    with Operators() as mode:
        step()
    return mode.counted


SYNCHRONISING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal.default",
    "bincount",
    "repeat_interleave.Tensor",
)
"""Operators that wait for the device, or whose result's shape depends on data."""


def synchronisations(counted: Counter[str]) -> int:
    """Return how many of the counted operators make the host wait."""
    return sum(n for name, n in counted.items() if any(word in name for word in SYNCHRONISING))


def graph_breaks(config: ModelConfig, *, micro_batch: int = 2, seq_len: int = 32) -> int:
    """Return the graph breaks of `torch.compile` in forward pass and losses (a small model says the same as a large one)."""
    import torch._dynamo as dynamo

    model = Model(config)
    tokens = torch.zeros(micro_batch, seq_len, dtype=torch.int64)
    dynamo.reset()
    explained = dynamo.explain(model)(tokens, tokens)
    dynamo.reset()
    return int(explained.graph_break_count)

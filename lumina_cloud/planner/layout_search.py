"""The fastest layout that fits: micro batch, ZeRO stage, block checkpointing, offload.

Only a few layouts are worth a look. Memory grows with the micro batch, so for each way of sharding and recomputing the largest
micro batch that fits is found by bisection over the divisors of the batch; of micro batches that are as fast within 2 % the
smallest is taken, because memory left over is safety. Layouts are tried in the order in which they cost speed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.memory import Memory, memory, upper_gib
from lumina_cloud.planner.throughput import Throughput, throughput
from trainer.config import Checkpointing, ConfigError, LayoutConfig, Offload, RunConfig, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.catalog.gpus import Gpu

AS_FAST = 0.98
CPU_TOKENS_PER_PASS = 16_384
"""On a processor more tokens at once only spill out of its caches."""

Way = tuple[int, Offload]

HOST_MEMORY_PER_GPU_MEMORY = 1.4
"""Main memory that comes with a rented GPU, over the GPU's own. An assumption (about 40 GB with an RTX 4090, 120 GB with an
A100 80GB is usual); Lambda gives more. Offloading is looked at below that only, unless it was asked for."""

_WAYS: tuple[Way, ...] = (
    (1, "none"),
    (2, "none"),
    (3, "none"),
    (2, "optimizer"),
    (3, "optimizer"),
    (3, "optimizer+parameters"),
)
"""(ZeRO stage, offload) that are worth a look, cheapest in speed first. On one GPU no stage shards anything, but stage 2 still lets go of
gradients as soon as they are added up; stage 3 alone saves nothing more."""


PRECISION = "precision"
"""Among the fixed fields: the precision was asked for, and stays."""


class NoLayout(ValueError):
    """A workload cannot be laid out on that many GPUs of that kind; the message says why."""


@dataclass(frozen=True)
class Choice:
    """A layout with what it takes."""

    config: RunConfig
    memory: Memory
    throughput: Throughput
    fits: bool


@lru_cache(maxsize=4096)
def choose(config: RunConfig, gpu: Gpu, count: int, fixed: frozenset[str]) -> Choice:
    """Return the fastest layout that fits; where none does, the one that needs least memory.

    `fixed` names layout fields that stay as `config` has them. Raises NoLayout when the batch does not divide over the GPUs,
    or the fixed fields exclude every layout.
    """
    usable = gpu.usable_memory_gib
    if usable is None:
        raise NoLayout(f"how much of its memory a {gpu.name} can use is not known")
    if gpu.peak_tflops(config.training.precision) is None:
        raise NoLayout(f"{gpu.name} has no {config.training.precision} arithmetic")
    training = config.training
    if gpu.bf16_emulated and training.precision == "bf16" and PRECISION not in fixed:
        # A default that takes this processor forty times as long is nobody's wish.
        training = replace(training, precision="fp32")
    return _search(replace(config, device=gpu.device, training=training), gpu, count, fixed, usable)


def _search(config: RunConfig, gpu: Gpu, count: int, fixed: frozenset[str], usable: float) -> Choice:
    micro_batches = _micro_batches(config, gpu, count, fixed)
    best: Choice | None = None
    smallest: tuple[float, RunConfig] | None = None
    refused: ConfigError | None = None
    ways = list(_ways(config, gpu, count, fixed))
    for layout in ways:
        if best is not None and layout.offload != best.config.layout.offload:
            # It fits without moving that much.
            break
        found, least_gib = _largest_that_fits(config, layout, micro_batches, gpu, usable)
        if found is None and smallest is not None and least_gib >= smallest[0]:
            continue
        least = _in(config, layout, micro_batches[0])
        try:
            check(least)
        except ConfigError as error:
            refused = error
            continue
        if found is None:
            smallest = (least_gib, least)
            continue
        candidate = _as_fast_but_smaller(config, layout, micro_batches[: found + 1], gpu)
        if best is None or _speed(candidate) > _speed(best):
            best = candidate
        if layout.offload == "none" and layout.checkpointing == "none" and _is_as_fast_as_any(candidate, ways, micro_batches, gpu):
            # What follows recomputes or moves more, for memory that is not needed.
            break
    if best is not None:
        return best
    if smallest is not None:
        return _weigh(smallest[1], gpu, fits=False)
    raise NoLayout(f"no layout that can be trained: {refused.message if refused else 'nothing to choose from'}")


def _speed(choice: Choice) -> float:
    return choice.throughput.tokens_per_second.mid


def _weigh(config: RunConfig, gpu: Gpu, *, fits: bool) -> Choice:
    return Choice(config, memory(config, config.layout, gpu), throughput(config, config.layout, gpu), fits)


def _in(config: RunConfig, layout: LayoutConfig, micro_batch: int) -> RunConfig:
    sequences = config.training.global_batch_tokens // config.training.seq_len
    return replace(config, layout=replace(layout, micro_batch=micro_batch, grad_accum=sequences // (micro_batch * layout.n_gpus)))


def _largest_that_fits(
    config: RunConfig, layout: LayoutConfig, micro_batches: tuple[int, ...], gpu: Gpu, usable: float
) -> tuple[int | None, float]:
    """Return the index of the largest micro batch whose upper bound of memory is usable, None where not even the first's is.

    Beside it the GiB that the first one needs.
    """
    training = config.training
    shape = shapes.of_model(config.model, training.seq_len)
    first = _in(config, layout, micro_batches[0]).layout
    setting = settings.of_layout(first, training.seq_len, training.precision, gpu.device, training.optimizer)
    sequences = first.micro_batch * first.grad_accum

    def need(micro_batch: int) -> float:
        return upper_gib(shape, replace(setting, micro_batch=micro_batch, grad_accum=sequences // micro_batch), gpu)

    least = need(micro_batches[0])
    if least > usable:
        return None, least
    # The last may take the whole batch at once, with no gradients to keep from one pass to the next: it need not take the most.
    if need(micro_batches[-1]) <= usable:
        return len(micro_batches) - 1, least
    return bisect_right(micro_batches[:-1], usable, lo=1, key=need) - 1, least


def _as_fast_but_smaller(config: RunConfig, layout: LayoutConfig, fitting: tuple[int, ...], gpu: Gpu) -> Choice:
    """Return the smallest micro batch that is as fast as the largest; speed grows with it."""

    def speed(micro_batch: int) -> float:
        tried = _in(config, layout, micro_batch)
        return throughput(tried, tried.layout, gpu).tokens_per_second.mid

    wanted = AS_FAST * speed(fitting[-1])
    first = next(m for m in fitting if speed(m) >= wanted)
    return _weigh(_in(config, layout, first), gpu, fits=True)


def _is_as_fast_as_any(choice: Choice, ways: list[LayoutConfig], micro_batches: tuple[int, ...], gpu: Gpu) -> bool:
    """Whether a larger micro batch, had it room, would be no faster, nor another sharding: stage 2 moves less than stage 1."""
    plain = [way for way in ways if way.offload == "none" and way.checkpointing == "none"]
    unlimited = [_in(choice.config, way, micro_batches[-1]) for way in plain]
    return all(_speed(choice) >= AS_FAST * throughput(u, u.layout, gpu).tokens_per_second.mid for u in unlimited)


def _micro_batches(config: RunConfig, gpu: Gpu, count: int, fixed: frozenset[str]) -> tuple[int, ...]:
    """Return the micro batches to choose from, ascending."""
    layout, training = config.layout, config.training
    if "n_gpus" in fixed and layout.n_gpus != count:
        raise NoLayout(f"n_gpus={layout.n_gpus} was asked for")
    sequences, rest = divmod(training.global_batch_tokens, training.seq_len)
    if rest or sequences % count:
        raise NoLayout(f"a batch of {sequences} sequences does not divide over {count} GPUs")
    per_gpu = sequences // count
    fitting = _divisors(per_gpu)
    if "grad_accum" in fixed:
        fitting = tuple(m for m in fitting if m * layout.grad_accum == per_gpu)
    if "micro_batch" in fixed:
        fitting = tuple(m for m in fitting if m == layout.micro_batch)
    elif gpu.device == "cpu" and len(fitting) > 1:
        fitting = tuple(m for m in fitting if m == 1 or m * training.seq_len <= CPU_TOKENS_PER_PASS)
    if not fitting:
        asked = f"micro_batch={layout.micro_batch}" + (f" x grad_accum={layout.grad_accum}" if "grad_accum" in fixed else "")
        raise NoLayout(f"{asked} x {count} GPUs does not make a batch of {sequences} sequences")
    return fitting


@lru_cache(maxsize=256)
def _divisors(n: int) -> tuple[int, ...]:
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}))


def _ways(config: RunConfig, gpu: Gpu, count: int, fixed: frozenset[str]) -> Iterator[LayoutConfig]:
    """Yield layouts with everything but the micro batch, cheapest in speed first."""
    asked = config.layout
    recompute: tuple[Checkpointing, ...] = (asked.checkpointing,) if "checkpointing" in fixed else ("none", "block")
    host_gib = HOST_MEMORY_PER_GPU_MEMORY * gpu.memory_gib * count
    for stage, offload in _sharding(asked, gpu, count, fixed):
        for checkpointing in recompute:
            layout = replace(asked, n_gpus=count, zero_stage=stage, checkpointing=checkpointing, offload=offload)
            if offload == "none" or "offload" in fixed or memory(config, layout, gpu).host_gib <= host_gib:
                yield layout


def _sharding(asked: LayoutConfig, gpu: Gpu, count: int, fixed: frozenset[str]) -> list[Way]:
    """Return the stages and offloads to try. What was asked for is tried even where it is not worth a look by itself."""
    if gpu.device == "cpu":
        ways: list[Way] = [(1, "none")]
    else:
        ways = [way for way in _WAYS if count > 1 or way[1] != "none" or way[0] < 3 or "zero_stage" in fixed]
    if "zero_stage" in fixed:
        ways = [way for way in ways if way[0] == asked.zero_stage] or [(asked.zero_stage, "none")]
    if "offload" in fixed:
        ways = [way for way in ways if way[1] == asked.offload] or [(ways[0][0], asked.offload)]
    return ways

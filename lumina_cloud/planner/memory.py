"""Memory per GPU, item by item, for AdamW under DeepSpeed's ZeRO.

Bytes per parameter and their sharding: Rajbhandari et al. 2020 (arXiv 1910.02054, section 3.1 and 5); what is live during the
optimizer's step beside them: DeepSpeed's own `estimate_zero2_model_states_mem_needs`, which counts fp32 gradients too.
Activations come from `quantities`. The peak is either in the backward pass (activations live) or in the optimizer's step
(fp32 gradients and temporaries live), never in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.core import units
from lumina_cloud.planner.estimate import Interval, MemoryItem
from lumina_cloud.planner.quantities import Quantities, quantities

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from trainer.config import LayoutConfig, RunConfig

BUCKET_ELEMENTS = 500_000_000
"""Gradients that are reduced at once: DeepSpeed's default `reduce_bucket_size`."""

LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO stage 3 holds gathered at most: DeepSpeed's default `stage3_max_live_parameters`."""

LOSS_CHUNK_TOKENS = 2048
"""The trainer's loss never holds the logits of more tokens at once."""

CUDA_CONTEXT_GIB = 0.75
"""Context, loaded kernels and cuBLAS workspace."""

NCCL_GIB = 0.4
"""Channels and buffers of the collectives."""

CPU_PROCESS_GIB = 0.55
"""Resident size of a Python process with torch and DeepSpeed loaded, before any model."""

FRAGMENTATION = 0.08
"""Of activations: what torch's caching allocator reserves above what it has given out. Published logs show 4 % to 73 %."""


@dataclass(frozen=True)
class Memory:
    """What one GPU holds at the peak, and the host's main memory that offloading takes, all GPUs together."""

    items: tuple[MemoryItem, ...]
    gib: Interval
    host_gib: float


def memory(config: RunConfig, layout: LayoutConfig, gpu: Gpu) -> Memory:
    """Count the memory per GPU of `config` in `layout`. The layout in `config` is not looked at."""
    q = quantities(config.model, config.training.seq_len, config.training.precision)
    states = _states(q, layout)
    passing = _passing(q, layout, config.training.seq_len)
    stepping = _stepping(q, layout, gpu)
    peak = passing if sum(passing.values()) >= sum(stepping.values()) else stepping
    outside = _outside(layout, gpu)
    reserve = FRAGMENTATION * sum(peak.values())
    n_bytes = {**states, **peak, "allocator reserve": reserve, **outside}
    items = tuple(MemoryItem(name, units.gib(size)) for name, size in n_bytes.items() if size > 0)
    return Memory(items, _interval(sum(states.values()), sum(peak.values()), reserve, sum(outside.values())), _host_gib(q, layout))


def _interval(states: float, peak: float, reserve: float, outside: float) -> Interval:
    """Return the range: states are counted exactly, activations to a quarter, what is outside of torch to a half."""
    mid = states + peak + reserve + outside
    low = 0.97 * states + 0.75 * peak + 0.5 * outside
    high = 1.02 * states + 1.25 * peak + reserve + 1.5 * outside
    return Interval(units.gib(low), units.gib(mid), units.gib(high))


def _shard(layout: LayoutConfig, from_stage: int) -> int:
    """Over how many GPUs something is spread that ZeRO shards from a stage on."""
    return layout.n_gpus if layout.zero_stage >= from_stage else 1


def _states(q: Quantities, layout: LayoutConfig) -> dict[str, float]:
    """Bytes that stay from the first step to the last."""
    n, size = q.parameters.total, q.bytes_per_element
    weights, gradients = float(size * n), float(size * n)
    optimizer = 8.0 * n / _shard(layout, 1)
    # DeepSpeed keeps a copy of its shard even of fp32 weights; stage 0 in fp32 would need none and is counted too high.
    master = 4.0 * n / _shard(layout, 1)
    if layout.offload != "none":
        # Gradients leave for the host bucket by bucket; two buckets are in flight.
        gradients = min(gradients, 2.0 * size * BUCKET_ELEMENTS)
        optimizer = master = 0.0
    else:
        gradients /= _shard(layout, 2)
    gathered = 0.0
    if layout.zero_stage == 3:
        # Two layers gathered at least, one computing and one fetched ahead, and the embedding.
        live = min(n, max(LIVE_ELEMENTS, 2 * q.largest_layer_parameters + q.embedding_parameters))
        kept = 0.0 if layout.offload.endswith("parameters") else weights / layout.n_gpus
        weights, gathered = kept, min(float(size * live), size * n - kept)
    buckets = 2.0 * size * min(BUCKET_ELEMENTS, n) if layout.n_gpus > 1 else 0.0
    return {
        "weights": weights,
        "gathered layers": gathered,
        "gradients": gradients,
        "optimizer moments": optimizer,
        "fp32 master weights": master,
        "communication buckets": buckets,
    }


def _passing(q: Quantities, layout: LayoutConfig, seq_len: int) -> dict[str, float]:
    """Bytes that are live at the end of the forward pass."""
    tokens = layout.micro_batch * seq_len
    block = q.largest_block
    if layout.checkpointing == "block":
        # Every block's input, and one block computed again.
        kept = {"block inputs": q.input_bytes - block.input, "one block, recomputed": block.total}
    else:
        kept = {
            "block inputs": q.input_bytes,
            "norms": sum(n * b.norms for n, b in q.blocks),
            "attention": sum(n * b.attention for n, b in q.blocks),
            "feed-forward": sum(n * b.feed_forward for n, b in q.blocks),
            "routing": sum(n * b.routing for n, b in q.blocks),
        }
    # The widest moment of the backward pass holds a gradient of what one block's feed-forward keeps.
    kept["gradients of activations"] = block.feed_forward / 2 + 2 * block.input
    kept["head"] = q.head_bytes
    out = {name: tokens * size for name, size in kept.items()}
    out["logits and loss"] = min(tokens, LOSS_CHUNK_TOKENS) * q.logit_bytes
    return out


def _stepping(q: Quantities, layout: LayoutConfig, gpu: Gpu) -> dict[str, float]:
    """Bytes that are live while the optimizer steps: fp32 gradients of the shard, and on a GPU AdamW's temporaries."""
    if layout.offload != "none":
        return {}
    shard = q.parameters.total / _shard(layout, 1)
    # On a GPU torch's AdamW computes on whole tensors at once, and ZeRO's tensors are the whole shard.
    temporaries = 4.0 * shard if gpu.device == "cuda" else 0.0
    return {"fp32 gradients at the step": 4.0 * shard, "optimizer temporaries": temporaries}


def _outside(layout: LayoutConfig, gpu: Gpu) -> dict[str, float]:
    if gpu.device == "cpu":
        return {"process": CPU_PROCESS_GIB * units.GIB}
    return {"CUDA context": CUDA_CONTEXT_GIB * units.GIB, "NCCL": NCCL_GIB * units.GIB if layout.n_gpus > 1 else 0.0}


def _host_gib(q: Quantities, layout: LayoutConfig) -> float:
    """Main memory for offloaded states: fp32 master, moments and gradients, and the weights where they go too."""
    if layout.offload == "none":
        return 0.0
    per_parameter = 16 + (q.bytes_per_element if layout.offload.endswith("parameters") else 0)
    return units.gib(per_parameter * q.parameters.total)

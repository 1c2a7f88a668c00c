"""Memory per GPU, item by item.

Model states by precision, optimizer and sharding: Rajbhandari et al. 2020 (arXiv 1910.02054, sections 3.1 and 5). The peak is at one
of three moments: where forward turns into backward (activations and logits live), at the end of the backward pass (all gradients
live), or in the optimizer's step (its temporaries live). Items are those of the worst moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lumina_cloud.core import units
from lumina_cloud.planner import own_blocks
from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.activations import block, chunks_when_compiled, logit_bytes, loss_tokens
from lumina_cloud.planner.constants import memory_constants
from lumina_cloud.planner.estimate import Interval, MemoryItem

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape
    from trainer.config import LayoutConfig, RunConfig

BUCKET_ELEMENTS = 500_000_000
"""Gradients that are reduced at once: DeepSpeed's default `reduce_bucket_size`."""

OUR_BUCKET_ELEMENTS = 100 * 2**20
"""The same of our trainer, and no more than there are parameters (`trainer.engine.BUCKET`; a test holds the two equal)."""

LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO stage 3 holds gathered at most: DeepSpeed's default `stage3_max_live_parameters`."""

DDP_BUCKET_BYTES = 25 * 2**20

CUDA_CONTEXT_GIB = 0.75
"""Context and loaded kernels."""

NCCL_GIB = 0.4
"""Channels and buffers of one communicator's collectives: data, tensor and pipeline parallel ranks have one each."""

CPU_PROCESS_GIB = 0.24
"""Resident size of a Python process with torch loaded, before any model."""
CPU_LATER_GIB = 0.21
"""What it loads on the way: DeepSpeed's engine, autograd, kernels."""
CPU_PREPARATION_GIB = 0.17
"""What training a tokenizer and tokenizing in the same process leave behind (0.15 to 0.19 in eight runs of 1 M-parameter models)."""
CPU_KERNELS_GIB = 0.69
"""Kernels that oneDNN keeps for experts' 16-bit products, one for each number of rows, up to its limit of 1024."""
CPU_RESERVE = 0.2
"""Of activations: what the C library keeps of freed memory."""
CPU_SPREAD = 0.15
CPU_STEP_BYTES = 12
"""Per parameter: fp32 gradients and AdamW's two temporaries, which the C library does not put where activations were."""

EXACT = 1.01
"""Of states, whose bytes are known: alignment and small buffers."""

RESERVED = frozenset({"torchtitan"})
"""Frameworks that report what torch's allocator has reserved, not what it has given out."""
GATHERED_WHOLE = frozenset({"litgpt"})
"""Published peaks of litgpt's full fine-tuning under FSDP are reached only if the model is one unit:
all weights gathered, all gradients whole."""
DRIVER_READING = frozenset({"megatron-lm", "megatron-deepspeed"})
"""Frameworks whose published figures are the driver's: with the context and all that torch's allocator has reserved."""
NO_ACTIVATIONS = frozenset({"gradients", "unsharded gradients", "logits and loss"})
"""Of the items where forward turns into backward."""
FUSED_STEP = frozenset(
    {
        *("torchtitan", "torchtune", "llm-foundry", "llm.c", "nemo", "megatron-bridge", "megatron-lm", "deepspeed", settings.OURS),
        *(settings.JAX, "nanogpt", "modded-nanogpt", "modded-flex", "nanogpt-speedrun", "nanochat"),
    }
)
"""Their optimizer steps in place on a GPU, without temporaries of a parameter's size."""
SAVED_WEIGHTS = frozenset({"deepspeed", "huggingface", "liger"})
"""Under ZeRO stage 3 without recomputation they hold all that was gathered forward until the backward pass has used it: 7B on 8 A100
took 55 GiB more than with recomputation, of which activations explain 43 and the other weights 11. That a saved view of a weight
keeps its storage is an inference; it is the careful reading."""
SMALL_BUCKETS = frozenset({"huggingface", "liger"})
"""Used through transformers, whose `auto` makes a bucket as large as the width squared."""
STAGE_STAYS_GATHERED = frozenset({"torchtitan"})
"""With pipeline stages it gathers a stage's weights once a step, and adds gradients up whole in fp32 until its end."""
PIPELINE_BUFFERS = frozenset({"megatron-deepspeed"})
"""DeepSpeed's pipeline engine keeps what enters and what leaves a stage for every micro batch on its way."""
ONE_BUCKET = frozenset({"deepspeed"})
"""Without overlapping communication, the default, one bucket is filled while none is on its way."""


@dataclass(frozen=True)
class Memory:
    """What one GPU holds at the peak, and the host's main memory that offloading takes, all GPUs together."""

    items: tuple[MemoryItem, ...]
    """They add up to `gib.mid`."""
    gib: Interval
    """Of the whole process, the context included."""
    upper_gib: float
    """Not exceeded in 95 of 100 cases: what a decision whether it fits goes by."""
    reported: Interval
    """What the framework itself reports as its peak: without what lies outside torch's allocator."""
    host_gib: float
    states_gib: float
    working_gib: float
    """What comes and goes."""
    most_gib: float
    """The same if what is not known costs most."""
    outside_gib: float

    def bounded(self, bound: float, *, split: bool) -> float:
        """Return the GiB that are not exceeded if what comes and goes is at most `bound` times what is counted.

        Of a model that is split, the states are uncertain too: stages and ranks differ.
        """
        return self.states_gib * (bound if split else EXACT) + self.most_gib * bound + self.outside_gib

    def reported_within(self, off: float) -> Interval:
        """Return the range of what the framework reports if what comes and goes is off by a share `off`."""
        rest = self.reported.mid - self.states_gib - self.working_gib
        return _interval(self.states_gib * units.GIB, self.working_gib * units.GIB, rest * units.GIB, off)

    def as_reported(self, reported: Interval) -> Memory:
        """Return the same memory if the framework reports another range: what other programs of the process hold stays as it is."""
        if reported == self.reported:
            return self
        factor = reported.mid / self.reported.mid
        within = {item.name for item in self.items} - _gpu_outside(1).keys()
        reserve = factor * (self.gib.mid - self.reported.mid - self.outside_gib)
        beside = (self.gib.low - self.reported.low, self.outside_gib + reserve, max(0.0, self.gib.high - self.reported.high))
        gib = Interval(reported.low + beside[0], reported.mid + beside[1], reported.high + max(beside[1:]))
        upper = (self.upper_gib - self.outside_gib) * factor + self.outside_gib
        return replace(
            self,
            items=tuple(MemoryItem(i.name, i.gib * factor) if i.name in within else i for i in self.items),
            gib=_within(replace(gib, low=min(gib.low, gib.mid)), upper),
            upper_gib=upper,
            reported=reported,
        )

    def times(self, factor: float) -> Memory:
        """Return the same memory if the framework reports `factor` times what is counted."""
        r = self.reported
        return self.as_reported(Interval(factor * r.low, factor * r.mid, factor * r.high))

    def room(self, usable_gib: float, *, split: bool) -> float:
        """Return the bound that would just fit."""
        if split:
            return (usable_gib - self.outside_gib) / (self.states_gib + self.most_gib)
        return (usable_gib - EXACT * self.states_gib - self.outside_gib) / self.most_gib if self.most_gib else math.inf


def memory(config: RunConfig, layout: LayoutConfig, gpu: Gpu) -> Memory:
    """Count the memory per GPU of `config` in `layout`. The layout in `config` is not looked at."""
    training = config.training
    setting = settings.of_layout(layout, training.seq_len, training.precision, gpu.device, training.optimizer)
    return of_setting(shapes.of_model(config.model, training.seq_len), setting, gpu)


def with_room_for(gpu: Gpu, count: int, factor: float) -> Gpu:
    """Return a GPU with other room: what fits it by the count fits one of `count` of `gpu` if runs report `factor` times the count."""
    usable = gpu.memory_bytes_usable
    if factor == 1 or usable is None:
        return gpu
    outside = 0.0 if gpu.device == "cpu" else sum(_gpu_outside(1 if count > 1 else 0).values())
    return replace(gpu, memory_bytes_usable=int(max(0.0, usable - outside) / factor + outside))


@dataclass(frozen=True)
class _Counted:
    """Bytes by item: what stays, what is there beside it at the worst moment, and what lies outside torch's allocator."""

    states: dict[str, float]
    peak: dict[str, float]
    outside: dict[str, float]
    kept: float
    working: float
    out: float
    reserve: float
    bound: float


@lru_cache(maxsize=16384)
def _counted(shape: Shape, setting: Setting, gpu: Gpu) -> _Counted:
    states = _states(shape, setting)
    moments = [_turning(shape, setting, gpu), _backward_ends(shape, setting)]
    on_cpu = gpu.device == "cpu"
    if not on_cpu:
        step = _stepping(shape, setting)
        if setting.framework in DRIVER_READING and "fp32 gradients at the step" in step and setting.states.gradients < 4:
            # The flat fp32 copies of 16-bit gradients don't fit into the blocks that activations left behind.
            step["blocks left by activations"] = sum(size for name, size in moments[0].items() if name not in NO_ACTIVATIONS)
        moments.append(step)
    sizes = [sum(found.values()) for found in moments]
    working = max(sizes)
    peak = moments[sizes.index(working)]
    outside = _outside(shape, setting, gpu)
    kept, out = sum(states.values()), sum(outside.values())
    if on_cpu:
        # All of it is read off the process: there is no allocator that counts.
        reserve = CPU_RESERVE * (working - peak.get("logits and loss", 0.0))
        return _Counted(states, peak, outside, kept + out, working + reserve, 0.0, reserve, 1 + CPU_SPREAD)
    c = memory_constants()
    return _Counted(
        states, peak, outside, kept, working, out, c.reserve * working, max(1.0, c.bound(setting.framework, split=setting.is_split))
    )


def upper_gib(shape: Shape, setting: Setting, gpu: Gpu) -> float:
    """Return `Memory.upper_gib` alone: what a search asks for many times."""
    found = _counted(shape, _careful(setting), gpu)
    return units.gib(found.kept * _states_bound(setting, found.bound) + found.working * found.bound + found.out)


def _careful(setting: Setting) -> Setting:
    return replace(setting, careful=True) if chunks_when_compiled(setting) else setting


def _states_bound(setting: Setting, bound: float) -> float:
    """Return the factor on states: of a model that is split they are uncertain too, since stages and ranks differ."""
    return bound if setting.is_split else EXACT


def of_setting(shape: Shape, setting: Setting, gpu: Gpu) -> Memory:
    """Count the memory per GPU of a model in a setting."""
    found = _counted(shape, setting, gpu)
    on_cpu = gpu.device == "cpu"
    off = CPU_SPREAD if on_cpu else memory_constants().interval(setting.framework, split=setting.is_split)
    reserve = 0.0 if on_cpu else found.reserve
    by_driver = setting.framework in DRIVER_READING
    reported = (reserve if setting.framework in RESERVED or by_driver else 0.0) + (found.out if by_driver else 0.0)
    upper = upper_gib(shape, setting, gpu)
    items = {**found.states, **found.peak, "allocator reserve": found.reserve, **found.outside}
    return Memory(
        items=tuple(MemoryItem(name, units.gib(size)) for name, size in items.items() if size > 0),
        gib=_within(_interval(found.kept, found.working, reserve + found.out, off), upper),
        upper_gib=upper,
        reported=_interval(found.kept, found.working, reported, off),
        host_gib=_host_gib(shape, setting),
        states_gib=units.gib(found.kept),
        working_gib=units.gib(found.working),
        most_gib=units.gib(_counted(shape, _careful(setting), gpu).working),
        outside_gib=units.gib(found.out),
    )


def _interval(states: float, working: float, rest: float, off: float) -> Interval:
    """Return the range: states are counted almost exactly, what comes and goes is off by a share `off`, what is outside by a half."""
    low = states * (1 - off / 4) + working / (1 + off) + 0.5 * rest
    high = states * (1 + off / 4) + working * (1 + off) + 1.5 * rest
    return Interval(units.gib(max(0.0, low)), units.gib(states + working + rest), units.gib(high))


def _within(interval: Interval, upper: float) -> Interval:
    """Return an interval that ends at the bound which decides what fits, if it would go beyond."""
    return Interval(interval.low, interval.mid, max(interval.mid, min(interval.high, upper)))


# --- states --------------------------------------------------------------------------------------------------------------


def local_parameters(shape: Shape, setting: Setting) -> float:
    """Parameters of one replica's part on a GPU: after tensor, pipeline and expert parallelism, before any sharding."""
    dense = shape.parameters - shape.expert_parameters
    blocks = dense - shape.embedding_parameters
    # The first pipeline stage holds the embedding beside its blocks, the last the head (or the embedding again, where tied).
    embedding = shape.embedding_parameters if setting.pipeline == 1 else shape.vocab * shape.d_model
    return (blocks / setting.pipeline + embedding) / setting.tensor + shape.expert_parameters / _expert_parts(setting)


def _expert_parts(setting: Setting) -> int:
    """Return into how many parts the experts are cut: by tensor parallelism too, where that many GPUs are there."""
    parts = setting.expert * setting.pipeline * setting.tensor
    return parts if parts <= setting.n_gpus else setting.expert * setting.pipeline


def _own_share(shape: Shape, setting: Setting, from_stage: int) -> float:
    """Return how many parameters' worth a GPU holds of something that is sharded from a stage on.

    An expert that expert parallelism has placed is replicated, and so sharded, over fewer GPUs than the rest.
    """
    n, shard = local_parameters(shape, setting), _shard(setting, from_stage)
    parts = _expert_parts(setting)
    experts = shape.expert_parameters / parts
    return (n - experts) / shard + experts / max(1.0, shard * setting.pipeline * setting.tensor / parts)


def _shard(setting: Setting, from_stage: int) -> int:
    """Over how many GPUs something is spread that is sharded from a stage on."""
    return setting.shards if setting.stage >= from_stage else 1


def _states(shape: Shape, setting: Setting) -> dict[str, float]:
    """Bytes that stay from the first step to the last."""
    n, s = local_parameters(shape, setting), setting.states
    to_host = setting.offload != "none"
    weights = _own_share(shape, setting, 3) * s.weights
    sharded = _own_share(shape, setting, 1) * s.trained
    if _weights_at_host(setting):
        weights = 0.0
    return {
        "weights": weights,
        "optimizer moments": 0.0 if to_host else sharded * s.moments,
        "fp32 master weights": 0.0 if to_host else sharded * s.master,
        "communication buckets": _buckets(shape, setting, n),
        "gathered layers": _gathered(shape, setting, n),
        "cast weights": n * s.cast if setting.stage < 3 else 0.0,
    }


def _weights_at_host(setting: Setting) -> bool:
    """Whether weights live in the host's memory: only sharded ones can."""
    return setting.offload == "optimizer+parameters" and setting.stage == 3


def _buckets(shape: Shape, setting: Setting, n: float) -> float:
    if setting.framework == settings.OURS:
        # One bucket, on a single GPU too.
        return float(setting.bytes_per_element * min(OUR_BUCKET_ELEMENTS, n))
    bucket = shape.d_model**2 if setting.framework in SMALL_BUCKETS else BUCKET_ELEMENTS
    if setting.shards <= 1 and setting.replicas <= 1:
        return 0.0
    if setting.sharder == "zero":
        in_flight = 1 if setting.framework in ONE_BUCKET else 2
        return float(in_flight * setting.bytes_per_element * min(bucket, n))
    if setting.sharder == "ddp":
        # DDP copies gradients into buckets that live as long as they do.
        return n * setting.states.gradients if setting.framework not in FUSED_STEP else 0.0
    return 0.0


def _gathered(shape: Shape, setting: Setting, n: float) -> float:
    """Weights beyond the own shard that stage 3 holds at once."""
    if setting.stage < 3:
        return 0.0
    size, one = setting.bytes_per_element, shape.block_parameters / setting.tensor
    own = n * setting.states.weights / setting.shards if not _weights_at_host(setting) else 0.0
    embedding = shape.embedding_parameters / setting.tensor / setting.pipeline
    if setting.framework in GATHERED_WHOLE:
        return max(0.0, n * size - own / setting.states.weights * size)
    if setting.framework in STAGE_STAYS_GATHERED and setting.pipeline > 1:
        return max(0.0, n * size)
    if setting.sharder == "zero":
        live = min(n, max(LIVE_ELEMENTS, 2 * one + embedding))
        passing = min(live * size, n * setting.states.weights - own)
    else:
        # The layer that computes and the one fetched ahead; embedding and head belong to the root and stay.
        passing = min((2 * one + embedding) * size, n * max(size, setting.states.weights) - own)
    saved = n * size - own if setting.framework in SAVED_WEIGHTS and setting.recompute == "none" else 0.0
    return max(0.0, passing, saved)


def _gradients(shape: Shape, setting: Setting) -> float:
    s = setting.states
    if setting.gradient_freed:
        return max(shape.block_parameters, shape.embedding_parameters) * s.gradients / setting.tensor
    held = _own_share(shape, setting, 2) * s.trained * s.gradients
    if setting.offload == "none":
        return held
    if setting.framework == settings.OURS and setting.stage < 3:
        return min(held, _leaving(shape, setting))
    # Gradients leave for the host bucket by bucket; two buckets are in flight.
    return min(held, 2.0 * s.gradients * BUCKET_ELEMENTS)


def _leaving(shape: Shape, setting: Setting) -> float:
    """Bytes of gradients on their way to the host under ZeRO stage 2: two buckets, or one tensor that is larger, copied and cast to fp32.

    A buffer of the largest tensor's size stays beside them (DeepSpeed 0.19, `stage_1_and_2.py`).
    """
    size, largest = setting.states.gradients, _largest_tensor(shape, setting)
    return largest * size + max(2.0 * size * OUR_BUCKET_ELEMENTS, largest * (size + 4.0))


def _largest_tensor(shape: Shape, setting: Setting) -> float:
    """Elements of the largest weight of our trainer: the embedding, or gate and up projections in one, those of all experts here."""
    experts = max(1.0, shape.n_experts / setting.expert)
    return max(shape.vocab * shape.d_model, experts * 2.0 * shape.d_model * shape.d_ff)


# --- the three moments ---------------------------------------------------------------------------------------------------


def layers_here(shape: Shape, setting: Setting) -> float:
    """Blocks of one pipeline stage."""
    return math.ceil(shape.n_layers / setting.pipeline)


def _in_flight(setting: Setting) -> float:
    """Micro batches whose activations the first pipeline stage keeps at once (1F1B: Narayanan et al. 2021, arXiv 2104.04473)."""
    stages = min(setting.pipeline, setting.grad_accum)
    if setting.virtual_stages > 1 and setting.pipeline > 1:
        # Never more than there are.
        return min(setting.grad_accum, stages * (1 + (setting.pipeline - 1) / (setting.pipeline * setting.virtual_stages)))
    return stages


def recomputed_blocks(shape: Shape, setting: Setting) -> float:
    """Return the share of blocks to which a policy of recomputation applies."""
    return math.ceil(shape.n_layers / setting.recompute_every) / shape.n_layers


def _turning(shape: Shape, setting: Setting, gpu: Gpu) -> dict[str, float]:
    """Bytes that are live where forward turns into backward."""
    plain, routed = block(shape, setting), block(shape, setting, entering=shape.entering)
    share = layers_here(shape, setting) / shape.n_layers * _in_flight(setting)
    again = recomputed_blocks(shape, setting)
    counts = [
        (share * n * part, held)
        for n, kept in ((shape.n_layers - shape.n_routed, plain), (shape.n_routed, routed))
        for part, held in ((again, kept.stays), (1 - again, kept.whole))
    ]
    largest = plain if shape.n_routed < shape.n_layers else routed
    size = setting.bytes_per_element
    kept = {
        "block inputs": sum(n * b.input for n, b in counts),
        "norms": sum(n * b.norms for n, b in counts),
        "attention": sum(n * b.attention for n, b in counts),
        "feed-forward": sum(n * b.feed_forward for n, b in counts),
        "routing": sum(n * b.routing for n, b in counts),
    }
    if setting.activations_to_host:
        kept = dict.fromkeys(kept, 0.0)
    # What is computed again (or fetched) comes on top of what one block keeps anyway, never above the block kept whole.
    kept["one block, recomputed"] = largest.whole.total - (0.0 if setting.activations_to_host else largest.stays.total)
    if setting.framework == settings.OURS:
        kept["gradients of activations"] = own_blocks.gradients(shape, size)
    else:
        kept["gradients of activations"] = largest.whole.feed_forward / 2 + 2 * shape.d_model * size
    kept["head"] = 2 * shape.d_model * size
    out = {name: setting.tokens * n for name, n in kept.items()}
    logits = loss_tokens(shape, setting) * logit_bytes(shape, setting)
    # Logits are gone before a block is computed again: the larger of the two counts.
    passing = out["one block, recomputed"] + out["gradients of activations"]
    if logits >= passing:
        out["one block, recomputed"] = out["gradients of activations"] = 0.0
        out["logits and loss"] = logits
    ours = setting.framework == settings.OURS
    if setting.grad_accum > 1 or setting.framework in RESERVED or (ours and (gpu.device == "cpu" or setting.stage == 0)):
        out["gradients"] = _gradients(shape, setting)
    elif ours:
        # Its loss takes the head's gradient as it goes.
        out["gradients"] = setting.states.gradients * shape.vocab * shape.d_model
    if setting.framework in PIPELINE_BUFFERS and setting.pipeline > 1:
        out["pipeline buffers"] = 2 * size * shape.d_model * setting.tokens * _in_flight(setting)
    if setting.framework in STAGE_STAYS_GATHERED and setting.pipeline > 1:
        out["unsharded gradients"] = 4.0 * local_parameters(shape, setting)
    return out


def _backward_ends(shape: Shape, setting: Setting) -> dict[str, float]:
    """Bytes that are live when the last gradients come out."""
    first = (
        block(shape, setting).whole.total if shape.n_routed < shape.n_layers else block(shape, setting, entering=shape.entering).whole.total
    )
    unsharded = 0.0
    if setting.framework in GATHERED_WHOLE and setting.stage == 3:
        unsharded = local_parameters(shape, setting) * setting.states.gradients
    elif setting.sharder == "fsdp":
        unsharded = 4.0 * (shape.embedding_parameters + shape.block_parameters) / setting.tensor / setting.pipeline
        unsharded = min(unsharded, local_parameters(shape, setting) * setting.states.gradients * (1 - 1 / setting.shards))
    return {
        "gradients": _gradients(shape, setting),
        "unsharded gradients": unsharded,
        "one block, recomputed": setting.tokens * first,
    }


def _stepping(shape: Shape, setting: Setting) -> dict[str, float]:
    """Bytes that are live while the optimizer steps."""
    if setting.offload != "none":
        return {"gradients": _gradients(shape, setting)}
    n = _own_share(shape, setting, 1) * setting.states.trained
    found = {"gradients": _gradients(shape, setting)}
    if setting.sharder == "zero":
        # ZeRO unscales and clips its shard's gradients in fp32; sharded 16-bit ones are freed as those are made.
        found["fp32 gradients at the step"] = 4.0 * n
        if setting.stage >= 2:
            found["gradients"] = 0.0
    if setting.framework not in FUSED_STEP:
        # torch's AdamW over lists of tensors computes on all of them at once; ZeRO's tensors are the whole shard.
        found["optimizer temporaries"] = (4.0 if setting.states.moments >= 8 else setting.states.weights) * n
    return found


def _outside(shape: Shape, setting: Setting, gpu: Gpu) -> dict[str, float]:
    if gpu.device == "cpu":
        measured = gpu.rates[0].base_gib if gpu.rates else CPU_PROCESS_GIB
        found = {"process": (measured + CPU_LATER_GIB) * units.GIB, "data preparation": CPU_PREPARATION_GIB * units.GIB}
        if shape.n_experts and setting.bytes_per_element == 2:
            found["kernels of experts"] = CPU_KERNELS_GIB * units.GIB
        n = _own_share(shape, setting, 1) * setting.states.trained
        return {**found, "step beside activations": CPU_STEP_BYTES * n}
    groups = sum(degree > 1 for degree in (setting.tensor, setting.pipeline, setting.replicas))
    return _gpu_outside(max(1, groups) if setting.n_gpus > 1 else 0)


def _gpu_outside(communicators: int) -> dict[str, float]:
    """Return the bytes of a GPU that torch's allocator knows nothing of."""
    return {"CUDA context": CUDA_CONTEXT_GIB * units.GIB, "NCCL": communicators * NCCL_GIB * units.GIB}


def _host_gib(shape: Shape, setting: Setting) -> float:
    """Main memory for offloaded states: fp32 master, moments and gradients, and the weights where they go too."""
    if setting.offload == "none":
        return 0.0
    per_parameter = 16 + (setting.bytes_per_element if setting.offload.endswith("parameters") else 0)
    return units.gib(per_parameter * shape.parameters)

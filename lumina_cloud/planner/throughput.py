"""Speed: seconds of one optimizer step, summed over what a GPU does in it, and tokens per second from that.

A micro step is the matrix products at the rate that the GPU reaches for that width, attention's score products, the tensors
that are written and read between them at memory speed, and the experts' losses; or, where kernels are tiny, the time to launch
them. To it come the collectives of the layout as far as they do not hide behind the backward pass, and the optimizer's step.
Constants were set on published measurements of dense models on one node; the interval says how far those spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.planner.estimate import Interval
from lumina_cloud.planner.quantities import Quantities, quantities

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from trainer.config import LayoutConfig, RunConfig

MATMUL_SHARE_OF_BEST = 0.85
"""Of the best matrix product measured on that GPU: what products of a training step's shapes reach when wide."""

MATMUL_SHARE_OF_PEAK = 0.62
"""The same of the datasheet's peak, where nobody measured a best one."""

POWER_LIMITED_SHARE = 0.35
"""The same for cards under 100 W, which cannot hold their clock (NVIDIA L4, T4)."""

HALF_WIDTH = 100
"""Width at which a matrix product reaches half of that: tiles and their edges."""

HALF_TOKENS = 256
"""Tokens of a micro step at which they reach half: too few rows leave the GPU's units idle."""

ATTENTION_SHARE, ATTENTION_SHARE_FROM_HOPPER = 0.45, 0.25
"""Of the matrix rate: attention's score products with softmax between them. FlashAttention-2, which torch has, gains less than
matrix products do on compute capability 9 and above (Shah et al. 2024, arXiv 2407.08608, abstract)."""

CPU_ATTENTION_SHARE = 0.9

CAUSAL_SHARE = 0.55
"""Of the score products that `count_flops` counts in full: the causal half, and the tiles on its edge."""

PASSES_OVER_ACTIVATIONS = 5.0
"""How often each kept activation crosses memory: written and read forward, read and its gradient written and read backward."""

BANDWIDTH_SHARE = 0.8
GROUPED_SHARE = 0.65
"""Of the matrix rate: experts' products over groups of unequal size."""
DEPTH_ROUTING_PASSES = 6.0
"""Crossings of memory by a routed block's gathered and scattered tokens."""

KERNELS_PER_BLOCK = 70
"""Launched forward and backward; a recomputed block adds a third."""
EXPERT_KERNELS, DEPTH_KERNELS, OTHER_KERNELS = 45, 30, 80
LAUNCH_SECONDS = {"cuda": 8e-6, "cpu": 12e-6}
STEP_SECONDS = {"cuda": 0.02, "cpu": 0.005}
"""Fixed cost of an optimizer step: norm of the gradients, schedule, logging."""

OPTIMIZER_BYTES = 34
"""Per parameter of the shard: weights, moments, master and gradients read and written once."""

PCIE_GB_S = {"3.0 x16": 10.0, "4.0 x16": 20.0, "5.0 x16": 40.0, "NVLink-C2C": 200.0}
"""What a ring over PCIe reaches in one direction: about two thirds of the wire."""
NVLINK_SHARE = 0.7
HIDDEN_SHARE = 0.5
"""Of the compute time: how much communication it can hide."""
NEVER_HIDDEN = 0.15
COLLECTIVE_SECONDS = 40e-6
CPU_ADAM_PARAMETERS_PER_SECOND = 4e8
"""DeepSpeed's CPU Adam on a rented box's cores, all GPUs together."""

OUR_TRAINER = 0.9
"""Speed of our trainer, whose small kernels are not fused, against those published runs. Assumed: not yet measured on a GPU."""

SLOWEST, FASTEST = 0.68, 1.30
"""The interval around `mid`, as factors of the speed."""
EXPERT_SLOWEST, EXPERT_FASTEST = 0.55, 1.40
CPU_SLOWEST, CPU_FASTEST = 0.45, 2.0
"""Processors differ, and share their cores with what else runs."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on every GPU at once."""

    compute: float
    launch: float
    """Time to launch the kernels; only what exceeds `compute` is waited for."""
    communication: float
    """What is not hidden."""
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds from one step to the next."""
        return max(self.compute, self.launch) + self.communication + self.optimizer


@dataclass(frozen=True)
class Throughput:
    """Speed of the whole machine, and the FLOPs per token that it really computes (recomputation included)."""

    tokens_per_second: Interval
    step: StepTime
    executed_flops_per_token: float


def throughput(config: RunConfig, layout: LayoutConfig, gpu: Gpu) -> Throughput:
    """Estimate the speed of `config` in `layout`. Raises ValueError for a GPU without arithmetic of that precision."""
    peak = gpu.peak_tflops(config.training.precision)
    if peak is None:
        raise ValueError(f"{gpu.name} has no {config.training.precision} arithmetic")
    step = step_time(config, layout, gpu, peak * 1e12)
    q = quantities(config.model, config.training.seq_len, config.training.precision)
    executed = executed_flops(q, layout)
    mid = config.training.global_batch_tokens / step.total
    slowest, fastest = _spread(config, gpu)
    ceiling = layout.n_gpus * peak * 1e12 / executed
    mid = min(mid, ceiling)
    return Throughput(Interval(slowest * mid, mid, min(fastest * mid, ceiling)), step, executed)


def executed_flops(q: Quantities, layout: LayoutConfig) -> float:
    """Return FLOPs per token that are computed: forward, backward, and blocks once more where they are recomputed.

    Half of the causal score products is skipped by the attention kernels and not counted here.
    """
    f = q.flops
    blocks = f.attention_matmul + CAUSAL_SHARE * f.attention_scores + f.feed_forward + f.routing
    return 3 * (blocks + f.head) + (blocks if layout.checkpointing == "block" else 0.0)


def step_time(config: RunConfig, layout: LayoutConfig, gpu: Gpu, peak_flops: float) -> StepTime:
    """Return the seconds of one optimizer step; `peak_flops` is FLOP/s of one GPU in the precision of the run."""
    q = quantities(config.model, config.training.seq_len, config.training.precision)
    tokens = config.training.global_batch_tokens / layout.n_gpus
    compute = tokens * _seconds_per_token(config, q, layout, gpu, peak_flops) / (OUR_TRAINER if gpu.device == "cuda" else 1.0)
    micro_steps = layout.grad_accum
    launch = micro_steps * _kernels(config, q, layout) * LAUNCH_SECONDS[gpu.device]
    communication = _communication(q, layout, gpu)
    hidden = max(NEVER_HIDDEN * communication, communication - HIDDEN_SHARE * compute)
    return StepTime(compute, launch, hidden, _optimizer(q, layout, gpu))


def _spread(config: RunConfig, gpu: Gpu) -> tuple[float, float]:
    if gpu.device == "cpu":
        return CPU_SLOWEST, CPU_FASTEST
    return (EXPERT_SLOWEST, EXPERT_FASTEST) if config.model.has_experts else (SLOWEST, FASTEST)


def _matmul_share(gpu: Gpu, peak_flops: float) -> float:
    """Which share of the peak wide matrix products reach."""
    if gpu.device == "cpu":
        return 1.0
    if gpu.tdp_w is not None and gpu.tdp_w < 100:
        return POWER_LIMITED_SHARE
    if gpu.matmul_best_tflops is None or gpu.bf16_tflops is None or peak_flops < 1e12 * gpu.bf16_tflops:
        return MATMUL_SHARE_OF_PEAK
    return MATMUL_SHARE_OF_BEST * min(1.0, gpu.matmul_best_tflops / gpu.bf16_tflops)


def _seconds_per_token(config: RunConfig, q: Quantities, layout: LayoutConfig, gpu: Gpu, peak_flops: float) -> float:
    model, f = config.model, q.flops
    rate = peak_flops * _matmul_share(gpu, peak_flops) * model.d_model / (model.d_model + HALF_WIDTH)
    if gpu.device == "cuda":
        tokens = layout.micro_batch * config.training.seq_len
        rate *= tokens / (tokens + HALF_TOKENS)
    passes = 4 if layout.checkpointing == "block" else 3
    experts = GROUPED_SHARE if model.has_experts else 1.0
    blocks = (f.attention_matmul + f.routing + f.feed_forward / experts) / rate
    scores = CAUSAL_SHARE * f.attention_scores / (rate * _attention_share(gpu))
    crossing = q.kept_bytes * PASSES_OVER_ACTIVATIONS * passes / 3 + q.logit_bytes * 2 + q.head_bytes * 3
    crossing += sum(n * block.routing for n, block in q.blocks) * DEPTH_ROUTING_PASSES
    return passes * (blocks + scores) + 3 * f.head / rate + crossing / (BANDWIDTH_SHARE * gpu.bandwidth_gb_s * 1e9)


def _attention_share(gpu: Gpu) -> float:
    if gpu.device == "cpu":
        return CPU_ATTENTION_SHARE
    major = gpu.compute_capability.partition(".")[0]
    return ATTENTION_SHARE_FROM_HOPPER if major.isdigit() and int(major) >= 9 else ATTENTION_SHARE


def _kernels(config: RunConfig, q: Quantities, layout: LayoutConfig) -> float:
    """How many kernels one micro step launches."""
    model = config.model
    per_block = KERNELS_PER_BLOCK + (EXPERT_KERNELS if model.has_experts else 0)
    blocks = q.n_layers * per_block + model.n_routed * DEPTH_KERNELS
    return blocks * (4 / 3 if layout.checkpointing == "block" else 1) + OTHER_KERNELS


def link_gb_s(gpu: Gpu) -> float:
    """Return what a ring between GPUs of one box reaches in one direction, in 10^9 bytes/s.

    Cards whose NVLink needs a bridge are taken to have none.
    """
    pcie = PCIE_GB_S.get(gpu.pcie, 10.0)
    return pcie if gpu.nvlink_needs_bridge or gpu.nvlink_gb_s <= pcie else NVLINK_SHARE * gpu.nvlink_gb_s


def _communication(q: Quantities, layout: LayoutConfig, gpu: Gpu) -> float:
    """Seconds of collectives and offload traffic in one optimizer step, nothing hidden.

    A ring moves (p-1)/p of a message through each GPU (Patarasuk and Yuan 2009). Stage 0 and 1 reduce gradients once a step,
    stage 2 and 3 in every micro step; stage 3 also gathers the weights forward and backward.
    """
    p, micro_steps, stage = layout.n_gpus, layout.grad_accum, layout.zero_stage
    weights = float(q.bytes_per_element * q.parameters.total)
    ring = weights * (p - 1) / p / (link_gb_s(gpu) * 1e9)
    messages = {0: 2.0, 1: 2.0, 2: micro_steps + 1.0, 3: 3.0 * micro_steps}[stage] if p > 1 else 0.0
    latency = messages * q.n_layers * p * COLLECTIVE_SECONDS / 4
    to_host = 0.0
    if layout.offload != "none":
        # Each GPU has its own link to the host: gradients of its shard down in every micro step, new weights up.
        shard = weights / p
        moves = micro_steps + 1.0 + (2.0 * micro_steps if layout.offload.endswith("parameters") else 0.0)
        to_host = shard * moves / (PCIE_GB_S.get(gpu.pcie, 10.0) * 1e9)
    return messages * ring + latency + to_host


def _optimizer(q: Quantities, layout: LayoutConfig, gpu: Gpu) -> float:
    n = q.parameters.total
    fixed = STEP_SECONDS[gpu.device]
    if layout.offload != "none":
        return fixed + n / CPU_ADAM_PARAMETERS_PER_SECOND
    shard = n / (layout.n_gpus if layout.zero_stage else 1)
    return fixed + shard * OPTIMIZER_BYTES / (BANDWIDTH_SHARE * gpu.bandwidth_gb_s * 1e9)

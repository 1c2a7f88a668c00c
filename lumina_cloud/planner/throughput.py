"""Speed: seconds of one optimizer step, summed over what a GPU does in it, and tokens per second from that.

A micro step is matrix products at the rate that the GPU reaches for that width, attention's score products, the tensors that are
written and read between them at memory speed, and the loss; or, where kernels are tiny, the time to launch them. To it come the
collectives as far as they do not hide behind computation, the pipeline's bubble, traffic to the host, and the optimizer's step.
What is not derived is in `constants`: shares of peaks, fitted to published measurements, and one factor a framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.activations import PROBABILITY_BYTES, block, is_unfused, logit_bytes
from lumina_cloud.planner.communication import communication, pcie_gb_s
from lumina_cloud.planner.constants import SpeedConstants, speed_constants
from lumina_cloud.planner.cpu_speed import CpuStep, cpu_step
from lumina_cloud.planner.estimate import Interval
from lumina_cloud.planner.memory import layers_here, local_parameters

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape
    from trainer.config import LayoutConfig, RunConfig

BANDWIDTH_SHARE = 0.8
"""Of the memory's bandwidth: what kernels over large tensors reach."""
SCORE_BACKWARD = 2.5
"""A fused attention's backward pass does five products for the forward's two (Dao 2023, arXiv 2307.08691, section 3.1)."""
DEPTH_ROUTING_PASSES = 6.0
"""Crossings of memory by a depth-routed block's gathered and scattered tokens."""
KERNELS_PER_BLOCK, EXPERT_KERNELS, DEPTH_KERNELS, OTHER_KERNELS = 70, 45, 30, 80
"""Launched forward and backward, nothing fused; a recomputed block adds a third."""
COMPILED_KERNELS = 0.4
STEP_SECONDS = {"cuda": 0.002, "cpu": 0.005}
"""Fixed cost of an optimizer step: norm of the gradients, schedule, logging."""
CPU_ADAM_PARAMETERS_PER_SECOND, OUR_CPU_ADAM = 4e8, 1.2e9
"""DeepSpeed's CPU Adam on a rented box's cores, all GPUs together: what the one published row comes to, a doubtful one, and our own trainer
on an H200 with 16 cores (`catalog/data/own_runs.toml`)."""
PACKED_FROM, MODDED_WINDOW = 16_384, 1024
"""Modded nanoGPT packs documents into one long stream and attends within a window and a document."""
CPU_HALF_WIDTH, CPU_ATTENTION = 64.0, 0.3
POWER_LIMITED_WATTS = 100
"""Cards below that cannot hold their clock (NVIDIA L4, T4)."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on every GPU at once."""

    matmul: float
    attention: float
    memory_bound: float
    """Norms, activations, residuals, routing, loss: tensors crossing memory."""
    launch: float
    """Time to launch the kernels; only what exceeds the computation is waited for."""
    communication: float
    """What is not hidden."""
    bubble: float
    """Waiting of pipeline stages."""
    host: float
    """Traffic to and from the host's memory, not hidden."""
    optimizer: float
    factor: float
    """On the speed of all of it: the framework, and what is measured of it."""

    @property
    def compute(self) -> float:
        """Seconds of computation."""
        return self.matmul + self.attention + self.memory_bound

    @property
    def total(self) -> float:
        """Seconds from one step to the next."""
        busy = max(self.compute, self.launch)
        return (busy + self.communication + self.bubble + self.host + self.optimizer) / self.factor


@dataclass(frozen=True)
class Throughput:
    """Speed of the whole machine, and the FLOPs per token that it really computes (recomputation included)."""

    tokens_per_second: Interval
    step: StepTime
    executed_flops_per_token: float
    model_flops_per_token: float
    """Without what is computed twice."""


def throughput(config: RunConfig, layout: LayoutConfig, gpu: Gpu) -> Throughput:
    """Estimate the speed of `config` in `layout`. Raises ValueError for a GPU without arithmetic of that precision."""
    training = config.training
    shape = shapes.of_model(config.model, training.seq_len)
    setting = settings.of_layout(layout, training.seq_len, training.precision, gpu.device, training.optimizer)
    return of_setting(shape, setting, gpu)


def of_setting(shape: Shape, setting: Setting, gpu: Gpu, constants: SpeedConstants | None = None) -> Throughput:
    """Estimate the speed of a model in a setting, all GPUs together."""
    c = constants or speed_constants()
    peak = peak_flops(gpu, setting)
    rates = gpu.measured(setting.arithmetic)
    step = _measured_step(cpu_step(shape, setting, rates)) if rates else step_time(shape, setting, gpu, c)
    batch = float(setting.micro_batch * setting.seq_len * setting.grad_accum * setting.replicas)
    executed = executed_flops(shape, setting)
    ceiling = math.inf if rates else setting.n_gpus * peak / executed
    mid = min(batch / step.total, ceiling)
    low, high = c.interval(setting, gpu, has_experts=shape.n_experts > 0)
    return Throughput(Interval(mid * low, mid, min(mid * high, ceiling)), step, executed, 3 * shape.flops.forward_causal)


def _measured_step(found: CpuStep) -> StepTime:
    """Return a processor's step as that of any device."""
    return StepTime(found.matmul, found.attention, found.other, 0.0, 0.0, 0.0, 0.0, found.optimizer, 1.0)


def peak_flops(gpu: Gpu, setting: Setting) -> float:
    """Return the dense peak of one GPU in the precision of the matrix products, FLOP/s.

    Raises ValueError for a GPU that has none.
    """
    by_name = {"fp8": gpu.fp8_tflops, "bf16": gpu.bf16_tflops, "fp16": gpu.fp16_tflops, "tf32": gpu.tf32_tflops, "fp32": gpu.fp32_tflops}
    peak = by_name[setting.arithmetic]
    if peak is None:
        raise ValueError(f"{gpu.name} has no {setting.arithmetic} arithmetic")
    return peak * 1e12


def recomputed_share(setting: Setting) -> float:
    """Return which share of the blocks' matrix products is done a second time forward."""
    if setting.recompute == "full":
        return 1.0 / setting.recompute_every
    if setting.recompute == "selective" and setting.framework == "torchtitan":
        return 0.5
    return 0.0


def executed_flops(shape: Shape, setting: Setting) -> float:
    """Return FLOPs per token that are computed: forward, backward, and what is recomputed; the causal half of the scores."""
    f = shape.flops
    scores = shapes.CAUSAL_SHARE * f.scores * attended(setting)
    blocks = f.dense + f.experts + f.routing
    again = recomputed_share(setting)
    scores_again = again if setting.recompute == "full" else 0.0
    return 3 * (blocks + scores + f.head) + again * blocks + scores_again * scores


def step_time(shape: Shape, setting: Setting, gpu: Gpu, c: SpeedConstants) -> StepTime:
    """Return the seconds of one optimizer step."""
    m = setting.grad_accum
    matmul, attention, memory_bound = _micro_step(shape, setting, gpu, c)
    compute = matmul + attention + memory_bound
    launch = _kernels(shape, setting) * (c.launch_us * 1e-6 if gpu.device == "cuda" else 12e-6)
    busy = max(compute, launch)
    exposed = communication(shape, setting, gpu, c, compute=busy)
    host = _host(shape, setting, gpu, c, busy * m)
    bubble = 0.0
    if setting.pipeline > 1:
        bubble = (setting.pipeline - 1) / setting.virtual_stages * (busy + exposed.per_micro_step)
    optimizer = STEP_SECONDS[gpu.device] + _optimizer(shape, setting, gpu)
    return StepTime(
        matmul=m * matmul,
        attention=m * attention,
        memory_bound=m * memory_bound,
        launch=m * launch,
        communication=m * exposed.per_micro_step + exposed.per_step,
        bubble=bubble,
        host=host,
        optimizer=optimizer,
        factor=c.factor(setting, gpu),
    )


# --- computation ---------------------------------------------------------------------------------------------------------


def matmul_rate(gpu: Gpu, setting: Setting, width: float, rows: float, c: SpeedConstants) -> float:
    """Return FLOP/s of matrix products of that width over that many rows (tokens)."""
    peak = peak_flops(gpu, setting)
    if gpu.device == "cpu":
        return peak * width / (width + CPU_HALF_WIDTH)
    if setting.arithmetic == "fp8":
        # Only the large products run in 8 bits, and they are fed by casts and scales.
        sixteen = (gpu.bf16_tflops or peak / 2e12) * 1e12 * _reached(gpu)
        best = sixteen * (1 + c.fp8_gain * width / (width + 2 * c.half_width))
    else:
        best = peak * _reached(gpu)
    return c.matmul * best * width / (width + c.half_width) * rows / (rows + c.half_rows)


def _reached(gpu: Gpu) -> float:
    """Return which share of the datasheet's peak the best large product reaches."""
    if gpu.tdp_w is not None and gpu.tdp_w < POWER_LIMITED_WATTS:
        return 0.45
    if gpu.matmul_best_tflops is None or not gpu.bf16_tflops:
        return 0.80
    return min(1.0, gpu.matmul_best_tflops / gpu.bf16_tflops)


def is_recent(gpu: Gpu) -> bool:
    """Whether the GPU is of NVIDIA's Hopper generation or later, for which attention kernels had to be written anew."""
    major = gpu.compute_capability.partition(".")[0]
    return major.isdigit() and int(major) >= 9


def _micro_step(shape: Shape, setting: Setting, gpu: Gpu, c: SpeedConstants) -> tuple[float, float, float]:
    """Return seconds of one micro step on one GPU: matrix products, attention's scores, memory traffic."""
    f, tokens, tensor = shape.flops, setting.tokens, setting.tensor
    stage = layers_here(shape, setting) / shape.n_layers
    again = recomputed_share(setting)
    rate = matmul_rate(gpu, setting, min(shape.d_model, shape.d_model * 4 / tensor), tokens, c)
    grouped = c.grouped_own if setting.framework == settings.OURS else c.grouped
    experts = f.experts / grouped if shape.n_experts else 0.0
    blocks = (f.dense + f.routing + experts) * stage / tensor
    head = f.head / tensor / setting.pipeline
    matmul = tokens * ((3 + again) * blocks + 3 * head) / rate
    attention = tokens * _scores(shape, setting, gpu, c) * stage / tensor
    return matmul, attention, tokens * _crossing(shape, setting, c) * stage / (BANDWIDTH_SHARE * gpu.bandwidth_gb_s * 1e9)


def _scores(shape: Shape, setting: Setting, gpu: Gpu, c: SpeedConstants) -> float:
    """Seconds per token of the score products over all layers."""
    peak16 = setting.arithmetic if setting.arithmetic != "fp8" else "bf16"
    tflops = {"bf16": gpu.bf16_tflops, "fp16": gpu.fp16_tflops, "tf32": gpu.tf32_tflops, "fp32": gpu.fp32_tflops}[peak16]
    rate = (tflops or gpu.fp32_tflops) * 1e12
    forward = shape.flops.scores * shapes.CAUSAL_SHARE * attended(setting)
    passes = 1 + SCORE_BACKWARD + (recomputed_share(setting) if setting.recompute == "full" else 0.0)
    if gpu.device == "cpu":
        return passes * forward / (rate * CPU_ATTENTION)
    share = c.attention_recent if is_recent(gpu) else c.attention
    narrow: float = min(1.0, shape.d_head / 128) ** c.narrow_heads
    if setting.attention == "fused":
        return passes * forward / (rate * share * narrow)
    # The whole square is computed, and every score crosses memory several times.
    bytes_per_token = shape.n_layers * shape.n_heads * setting.seq_len * PROBABILITY_BYTES
    return 3 * forward / shapes.CAUSAL_SHARE / (rate * 0.6) + 2 * bytes_per_token / (BANDWIDTH_SHARE * gpu.bandwidth_gb_s * 1e9)


def attended(setting: Setting) -> float:
    """Return which share of the causal scores is computed where a framework's models attend in windows."""
    if setting.framework == "modded-flex" and setting.seq_len >= PACKED_FROM:
        return MODDED_WINDOW / (setting.seq_len / 2)
    if setting.framework == "nanochat":
        return 0.6
    return 1.0


def _crossing(shape: Shape, setting: Setting, c: SpeedConstants) -> float:
    """Bytes per token that cross memory beside matrix products."""
    # What is kept in 8 bits crosses memory in 16 before it is quantised.
    moving = replace(setting, arithmetic="bf16") if setting.arithmetic == "fp8" else setting
    plain = block(shape, moving).whole
    routed = block(shape, moving, entering=shape.entering).whole
    n_plain, n_routed = shape.n_layers - shape.n_routed, shape.n_routed
    # Norms, rotations and gates in single operations cross memory more often than fused kernels, compiled ones less.
    style = c.compiled_passes if setting.compiled else c.unfused_passes if is_unfused(shape, setting) else 1.0
    passes = c.passes * style * (3 + recomputed_share(setting)) / 3
    scores = shape.n_heads * setting.seq_len * PROBABILITY_BYTES / setting.tensor if setting.attention == "eager" else 0.0
    moved = n_plain * max(0.0, plain.total - scores) + n_routed * max(0.0, routed.total - scores * shape.entering)
    loss = 2 * logit_bytes(shape, setting) + 6.0 * shape.d_model
    return passes * moved + loss + n_routed * routed.routing * DEPTH_ROUTING_PASSES


def _kernels(shape: Shape, setting: Setting) -> float:
    """How many kernels one micro step launches."""
    per_block = KERNELS_PER_BLOCK + (EXPERT_KERNELS if shape.n_experts else 0)
    blocks = layers_here(shape, setting) * per_block + shape.n_routed * DEPTH_KERNELS
    return (blocks * (3 + recomputed_share(setting)) / 3 + OTHER_KERNELS) * (COMPILED_KERNELS if setting.compiled else 1.0)


# --- host and optimizer --------------------------------------------------------------------------------------------------


def _host(shape: Shape, setting: Setting, gpu: Gpu, c: SpeedConstants, compute: float) -> float:
    """Seconds of one step that traffic to the host's memory adds. Each GPU has its own link."""
    if setting.offload == "none" and not setting.activations_to_host:
        return 0.0
    wire = pcie_gb_s(gpu) * 1e9
    shard = local_parameters(shape, setting) * 2.0 / setting.shards
    moves = 0.0
    if setting.offload != "none":
        moves += setting.grad_accum + 1.0
    if setting.offload == "optimizer+parameters":
        moves += 2.0 * setting.grad_accum * setting.shards / min(setting.shards, setting.gpus_per_node)
    seconds = shard * moves / wire
    if setting.activations_to_host:
        kept = setting.tokens * shape.blocks * block(shape, setting).stays.total * setting.grad_accum
        seconds += max(0.0, 2 * kept / wire - 0.7 * compute)
    return seconds


def _optimizer(shape: Shape, setting: Setting, gpu: Gpu) -> float:
    n = local_parameters(shape, setting) * setting.states.trained
    if setting.offload != "none":
        rate = OUR_CPU_ADAM if setting.framework == settings.OURS else CPU_ADAM_PARAMETERS_PER_SECOND
        return n / rate / max(1.0, setting.n_gpus / setting.gpus_per_node)
    shard = n / (setting.shards if setting.stage else 1)
    s = setting.states
    # Weights, master and moments are read and written, gradients read twice (their norm) and cleared.
    n_bytes = 2 * (s.weights + s.master + s.moments) + 3 * s.gradients
    return shard * n_bytes / (BANDWIDTH_SHARE * gpu.bandwidth_gb_s * 1e9)


def mfu(found: Throughput, setting: Setting, gpu: Gpu) -> float:
    """Return the share of the peak that the model's own FLOPs make up at the middle of the estimate."""
    return min(1.0, found.tokens_per_second.mid * found.model_flops_per_token / (setting.n_gpus * peak_flops(gpu, setting)))

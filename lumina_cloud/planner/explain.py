"""How an estimate came about, line by line, with the numbers and sources to check it by hand.

Each line is a statement that holds by itself: `name = value = how it is computed  [where it is from]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.catalog.terms import terms
from lumina_cloud.core import money
from lumina_cloud.planner import loss as loss_law
from lumina_cloud.planner import memory, throughput
from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.constants import speed_constants
from lumina_cloud.planner.costs import HOURS_PER_MONTH, disk_gib

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.plan import Row
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape

FITTED = "fitted, catalog/data/efficiency.toml; errors in docs/accuracy.md"


def lines(shape: Shape, setting: Setting, gpu: Gpu) -> list[str]:
    """Return the derivation of memory and speed."""
    return [*_model(shape, setting), *_speed(shape, setting, gpu), *_memory(shape, setting, gpu)]


def plan_lines(row: Row) -> list[str]:
    """Return the derivation of one row of a plan: model, speed, memory, time, money, loss."""
    e = row.estimate
    training = e.config.training
    shape = shapes.of_model(e.config.model, training.seq_len)
    setting = settings.of_layout(e.config.layout, training.seq_len, training.precision, row.machine.gpu.device, training.optimizer)
    return [*lines(shape, setting, row.machine.gpu), *_heavier(row), *_time(row), *_money(row), *_loss(row)]


def _heavier(row: Row) -> list[str]:
    e = row.estimate
    if abs(e.heavier - 1) < 1e-9:
        return []
    verdict = "fits" if e.fits else "does not fit"
    return [
        f"runs report {e.heavier:.4g} times that peak (memory, below): {e.memory_gib.mid:.3f} GiB per GPU, 95 % upper bound "
        f"{e.memory_upper_gib:.3f} against {e.usable_memory_gib:.2f}: {verdict}"
    ]


def _model(shape: Shape, setting: Setting) -> list[str]:
    f = shape.flops
    forward = f.forward_causal
    out = [
        f"parameters = {shape.parameters:,}, of them active {shape.active_parameters:,}: {shape.n_layers} layers of width {shape.d_model}, "
        f"{shape.n_heads} query and {shape.n_kv_heads} key-value heads of {shape.d_head}, feed-forward {shape.d_ff}"
        + (f" x {shape.n_experts} experts, top {shape.top_k}" if shape.n_experts else "")
        + f", vocabulary {shape.vocab:,}",
        f"FLOPs of one token forward = {forward:.4g}: matrices {f.dense + f.experts:.4g}, routing {f.routing:.4g}, "
        f"scores {shapes.CAUSAL_SHARE * f.scores:.4g} (causal half of 4 x layers x sequence {setting.seq_len:,} x width), "
        f"head {f.head:.4g}",
        f"FLOPs of one token trained = {3 * forward:.4g} = 3 x forward  [the backward pass costs two: Kaplan et al. 2020, section 2.1]",
    ]
    executed = throughput.executed_flops(shape, setting)
    if executed > 3 * forward * 1.001:
        out.append(f"FLOPs of one token computed = {executed:.4g}, with what is recomputed ({setting.recompute})")
    if shape.n_routed:
        out.append(f"{shape.n_routed} blocks are entered by {shape.entering:.1%} of the tokens: {shape.blocks:.3g} blocks a token")
    return out


def _speed(shape: Shape, setting: Setting, gpu: Gpu) -> list[str]:
    c = speed_constants()
    found = throughput.of_setting(shape, setting, gpu)
    step, n = found.step, setting.n_gpus
    peak = throughput.peak_flops(gpu, setting)
    rate = throughput.matmul_rate(gpu, setting, shape.d_model, setting.tokens, c)
    figure = f"{setting.arithmetic}_tflops"
    tokens = setting.micro_batch * setting.seq_len * setting.grad_accum * setting.replicas
    s = found.tokens_per_second
    out = [
        f"peak of {gpu.name} = {peak / 1e12:,.4g} TFLOP/s {setting.arithmetic}  [{gpu.source(figure)}]",
        f"matrix products reach {rate / 1e12:,.4g} TFLOP/s = {rate / peak:.0%} of it at width {shape.d_model} and "
        f"{setting.tokens:,.0f} rows: share {c.matmul:.3g} of the best measured product, x width / (width + {c.half_width:.3g}), "
        f"x rows / (rows + {c.half_rows:.3g})  [{FITTED}]",
        f"memory moves {gpu.bandwidth_gb_s:,.4g} GB/s  [{gpu.source('bandwidth_gb_s')}]",
        f"one step = {tokens:,} tokens = micro batch {setting.micro_batch} x sequence {setting.seq_len:,} x accumulation "
        f"{setting.grad_accum} x {setting.replicas} replica(s)",
        f"matrix products {step.matmul:.4g} s, attention scores {step.attention:.4g} s, tensors crossing memory {step.memory_bound:.4g} s: "
        f"computation {step.compute:.4g} s; launching kernels {step.launch:.4g} s (the larger of the two counts)",
        f"communication not hidden {step.communication:.4g} s, pipeline bubble {step.bubble:.4g} s, host traffic {step.host:.4g} s, "
        f"optimizer {step.optimizer:.4g} s",
    ]
    if abs(step.factor - 1) > 1e-9:
        out.append(f"factor {step.factor:.3g} = what is measured of {setting.framework} and {gpu.name} beyond that  [{FITTED}]")
    out += [
        f"step time = {step.total:.4g} s",
        f"tokens/s = {s.mid:,.4g} = {tokens:,} / {step.total:.4g}, on {n} GPU(s); four of five between {s.low:,.4g} and "
        f"{s.high:,.4g}  [{FITTED}]",
        f"utilisation = {throughput.mfu(found, setting, gpu):.1%} = tokens/s x {found.model_flops_per_token:.4g} / ({n} x peak)",
    ]
    return out


def _memory(shape: Shape, setting: Setting, gpu: Gpu) -> list[str]:
    found = memory.of_setting(shape, setting, gpu)
    s = setting.states
    out = [
        f"bytes a parameter = {s.weights:g} weights + {s.gradients:g} gradients + {s.master:g} master + {s.moments:g} moments, "
        f"sharded over {setting.shards} GPU(s) from stage {setting.stage}  [Rajbhandari et al. 2020, arXiv 1910.02054]"
    ]
    out += [f"memory: {item.name} = {item.gib:.3f} GiB" for item in found.items]
    out.append(f"memory per GPU = {found.gib.mid:.3f} GiB = their sum; four of five between {found.gib.low:.3f} and {found.gib.high:.3f}")
    if gpu.device == "cuda":
        out.append(f"a run reports {found.reported.mid:.3f} GiB of it as its peak: what torch's allocator has given out")
    usable = gpu.usable_memory_gib
    if usable is not None:
        verdict = "fits" if found.upper_gib <= usable else "does not fit"
        out.append(f"95 % upper bound = {found.upper_gib:.3f} GiB against {usable:.2f} GiB usable: {verdict}  [{FITTED}]")
    return out


def _time(row: Row) -> list[str]:
    e, its = row.estimate, terms(row.machine.provider)
    p = e.parts
    if p is None:
        return []
    t = e.config.training
    out = [
        f"hours: start-up {p.start_up:.4g} (boot, image, packages), data {p.data:.4g}, warm-up {p.warm_up:.4g}  [{its.source}; {its.date}]",
        f"hours: training {p.training:.4g} = {t.tokens:,} tokens / {e.tokens_per_second.mid:,.4g} a second / 3600",
        f"hours: checkpoints {p.checkpoints:.4g} of {e.checkpoint_gib:.3g} GiB every {t.checkpoint_minutes:g} minutes, or tenth of "
        f"the run where that is sooner and writing takes at most a tenth of it, and at least 2; "
        f"transfer of the result {p.transfer:.4g}, evaluation {p.evaluation:.4g}",
    ]
    if row.machine.interruptible:
        best = f"; least is lost with one every {e.checkpoint_minutes_best:.3g} minutes (Young, Daly)" if e.checkpoint_minutes_best else ""
        out.append(f"hours: interruptions {p.interruptions:.4g} at {its.interruptions_per_hour[1]:g} an hour (assumed){best}")
    out.append(f"hours = {e.hours.mid:.4g} = their sum; four of five between {e.hours.low:.4g} and {e.hours.high:.4g}")
    return out


def _money(row: Row) -> list[str]:
    e, m, its = row.estimate, row.machine, terms(row.machine.provider)
    c = e.costs
    if c is None:
        return []
    disk = disk_gib(e.config)
    return [
        f"rental {money.show(c.rental)} = {e.hours.mid:.4g} h x {money.show(m.usd_per_hour)}, in steps of {its.billing_seconds} s",
        f"storage {money.show(c.storage)} = {disk:.4g} GiB x ${its.storage_usd_per_gib_month}/GiB/month / {HOURS_PER_MONTH} x hours; "
        f"traffic {money.show(c.traffic)}  [{its.source}; {its.date}]",
        f"cost = {money.show(e.usd.mid)}; four of five between {money.show(e.usd.low)} and {money.show(e.usd.high)}",
    ]


def _loss(row: Row) -> list[str]:
    found = row.estimate.loss
    return [f"loss = {found.mid:.3f}, between {found.low:.3f} and {found.high:.3f}", *loss_law.derivation(row.estimate.config)]

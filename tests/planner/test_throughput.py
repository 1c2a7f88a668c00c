"""Speed: published measurements lie in the interval, and no estimate is above what the hardware can do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.communication import link_gb_s
from lumina_cloud.planner.throughput import executed_flops, throughput
from tests.planner.conftest import CPU, NAMED_GPUS, workloads
from trainer.config import DataConfig, LayoutConfig, ModelConfig, RunConfig, TrainingConfig, count_parameters, preset

GPUS = st.sampled_from([*NAMED_GPUS, CPU])


@st.composite
def laid_out(draw):
    """A workload with a layout that its batch divides over."""
    config = draw(workloads())
    sequences = config.training.global_batch_tokens // config.training.seq_len
    n_gpus, micro_batch = draw(st.sampled_from([(1, 1), (1, 4), (2, 2), (8, 1)]))
    stage, offload = draw(st.sampled_from([(1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer+parameters")]))
    checkpointing = draw(st.sampled_from(["none", "block"]))
    layout = LayoutConfig(n_gpus, micro_batch, sequences // (n_gpus * micro_batch), stage, checkpointing, offload)
    return replace(config, layout=layout)


@given(laid_out(), GPUS)
def test_speed_is_positive_in_order_and_never_above_the_peak(config, gpu):
    found = throughput(config, config.layout, gpu)
    s = found.tokens_per_second
    assert 0 < s.low <= s.mid <= s.high
    peak = gpu.peak_tflops(config.training.precision) * 1e12 * config.layout.n_gpus
    assert s.high * found.executed_flops_per_token <= peak * (1 + 1e-9)


@given(laid_out(), GPUS)
def test_recomputing_is_never_faster(config, gpu):
    speeds = [throughput(config, replace(config.layout, checkpointing=how), gpu).tokens_per_second.mid for how in ("none", "block")]
    assert speeds[1] <= speeds[0] * (1 + 1e-9)


@given(laid_out(), st.sampled_from(NAMED_GPUS))
def test_offloading_is_never_faster(config, gpu):
    here = throughput(config, replace(config.layout, offload="none", zero_stage=3), gpu).tokens_per_second.mid
    there = throughput(config, replace(config.layout, offload="optimizer+parameters", zero_stage=3), gpu).tokens_per_second.mid
    assert there <= here * 1.001


@given(laid_out(), st.sampled_from(NAMED_GPUS))
def test_more_gpus_are_never_superlinear(config, gpu):
    one = replace(config.layout, n_gpus=1, grad_accum=config.layout.grad_accum * config.layout.n_gpus, offload="none")
    many = replace(config.layout, offload="none")
    speed_one = throughput(config, one, gpu).tokens_per_second.mid
    # The optimizer's work is sharded too, so a little above linear is possible where it dominates.
    assert throughput(config, many, gpu).tokens_per_second.mid <= 1.35 * many.n_gpus * speed_one


def shape(d_model, n_layers, n_heads, d_ff, vocab):
    return ModelConfig("dense", vocab, d_model, n_layers, n_heads, n_heads, d_ff, tie_embeddings=False)


MEASURED = [
    # MPT 7B shape on 8 A100 80GB, FSDP, 6 sequences of 2,048 a GPU, nothing recomputed (MosaicML llm-foundry): tokens/s a GPU.
    ("A100-80GB-SXM", 8, shape(4096, 32, 32, 10_922, 50_368), 2048, 6, 21, 3, "none", 4641),
    # GPT-2 124M class on 2 RTX 4090, 32 sequences of 1,024 a GPU (tyler-romero speedrun logs).
    ("RTX4090", 2, shape(768, 12, 12, 2048, 50_304), 1024, 32, 8, 1, "none", 107_793),
    # Torchtune, Llama 3.2 3B on one A100 80GB, two sequences of 4,096, eager.
    ("A100-80GB-SXM", 1, shape(3072, 28, 24, 8192, 128_256), 4096, 2, 1, 1, "none", 7075),
    # MPT 7B shape on 8 H100, the same layout.
    ("H100-80GB-SXM", 8, shape(4096, 32, 32, 10_922, 50_368), 2048, 6, 21, 3, "none", 10_643),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[0]}x{row[1]}-{row[2].d_model}")
def test_published_measurements_lie_in_the_interval(row):
    gpu, n_gpus, model, seq_len, micro_batch, grad_accum, stage, checkpointing, measured = row
    batch = n_gpus * micro_batch * grad_accum * seq_len
    training = TrainingConfig(tokens=10**9, unique_tokens=10**9, global_batch_tokens=batch, lr=1e-3, seq_len=seq_len)
    layout = LayoutConfig(n_gpus, micro_batch, grad_accum, stage, checkpointing)
    found = throughput(RunConfig("x", model, training, DataConfig("x"), layout), layout, gpus.resolve(gpu)).tokens_per_second
    assert found.low / n_gpus < measured < found.high / n_gpus


def test_b1_on_a_4090_takes_hundreds_of_hours():
    config = preset("b1", "dense")
    speed = throughput(config, replace(config.layout, micro_batch=4, grad_accum=64), gpus.resolve("4090")).tokens_per_second
    assert 200 < 20e9 / speed.mid / 3600 < 800


def test_depth_routing_is_faster_and_experts_are_slower_than_the_dense_twin():
    a100 = gpus.resolve("a100")
    layout = LayoutConfig(micro_batch=8, grad_accum=32)
    speed = {arch: throughput(preset("b1", arch), layout, a100).tokens_per_second.mid for arch in ("dense", "moe", "mod", "hybrid")}
    assert speed["moe"] < speed["dense"] < speed["mod"]
    assert speed["moe"] < speed["hybrid"] < speed["mod"]


def test_a_recomputed_forward_pass_is_counted_once_more_and_the_head_is_not():
    config = preset("b1", "dense")
    shape_ = shapes.of_model(config.model, 2048)
    layouts = (LayoutConfig(), LayoutConfig(checkpointing="block"))
    kept, recomputed = (executed_flops(shape_, settings.of_layout(layout, 2048, "bf16")) for layout in layouts)
    assert recomputed - kept == pytest.approx((kept - 3 * shape_.flops.head) / 3)
    # 6 FLOPs per matrix parameter and token, and the causal half of the scores.
    assert kept == pytest.approx(6 * (count_parameters(config.model).total - config.model.vocab * config.model.d_model), rel=0.12)


def test_launching_kernels_bounds_tiny_micro_steps():
    config = preset("debug", "dense")
    small = throughput(config, LayoutConfig(micro_batch=1, grad_accum=178), gpus.resolve("h100"))
    assert small.step.launch > small.step.compute
    large = throughput(config, LayoutConfig(micro_batch=89, grad_accum=2), gpus.resolve("h100"))
    assert large.tokens_per_second.mid > 2 * small.tokens_per_second.mid


def test_links_between_gpus():
    assert link_gb_s(gpus.resolve("A100-80GB-SXM")) == pytest.approx(0.7 * 300)
    assert link_gb_s(gpus.resolve("A100-80GB-PCIe")) == 20.0
    assert link_gb_s(gpus.resolve("4090")) == 20.0


def test_a_gpu_without_that_arithmetic_is_refused():
    config = preset("debug", "dense")
    with pytest.raises(ValueError, match="T4 has no bf16"):
        throughput(config, config.layout, gpus.resolve("T4"))

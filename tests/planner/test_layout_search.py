"""The layout search: what it returns fits and can be trained, and what the user fixed stays."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.planner.layout_search import HOST_MEMORY_PER_GPU_MEMORY, NoLayout, choose
from lumina_cloud.planner.memory import memory
from lumina_cloud.planner.throughput import throughput
from tests.planner.conftest import CPU, machines, workloads
from trainer.config import LayoutConfig, check, preset, with_layout

NOTHING = frozenset()


@settings(max_examples=300)
@given(workloads(), machines())
def test_what_is_chosen_can_be_trained_and_fits_exactly_when_it_says_so(config, on):
    chosen = choose(config, on.gpu, on.count, NOTHING)
    check(chosen.config)
    assert chosen.config.layout.n_gpus == on.count
    assert chosen.config.device == on.gpu.device
    assert chosen.fits == (chosen.memory.gib.high <= on.gpu.usable_memory_gib)
    assert chosen.memory == memory(config, chosen.config.layout, on.gpu)
    assert chosen.memory.host_gib <= HOST_MEMORY_PER_GPU_MEMORY * on.gpu.memory_gib * on.count


@given(workloads(), machines())
def test_no_other_layout_that_fits_is_faster_by_more_than_the_tolerance(config, on):
    chosen = choose(config, on.gpu, on.count, NOTHING)
    per_gpu = config.training.global_batch_tokens // config.training.seq_len // on.count
    for stage, offload, checkpointing in ((1, "none", "none"), (1, "none", "block"), (3, "none", "none"), (2, "optimizer", "block")):
        if on.gpu is CPU and (stage, offload) != (1, "none"):
            continue
        for micro_batch in (m for m in (1, 2, 4, 8) if per_gpu % m == 0):
            if on.gpu is CPU and micro_batch * config.training.seq_len > 16_384:
                continue
            layout = LayoutConfig(on.count, micro_batch, per_gpu // micro_batch, stage, checkpointing, offload)
            other = replace(config, layout=layout)
            needs = memory(other, layout, on.gpu)
            if needs.gib.high > on.gpu.usable_memory_gib or needs.host_gib > HOST_MEMORY_PER_GPU_MEMORY * on.gpu.memory_gib * on.count:
                continue
            assert chosen.fits, "a layout fits, and the search found none"
            speed = throughput(other, layout, on.gpu).tokens_per_second.mid
            # Once something fits without recomputing or offloading, larger ZeRO stages are not looked at.
            assert chosen.throughput.tokens_per_second.mid >= 0.8 * speed


@given(workloads(), machines())
def test_more_memory_never_fits_worse(config, on):
    chosen = choose(config, on.gpu, on.count, NOTHING)
    roomier = replace(on.gpu, memory_bytes_usable=2 * on.gpu.memory_bytes_usable, memory_gib=2 * on.gpu.memory_gib)
    again = choose(config, roomier, on.count, NOTHING)
    assert again.fits >= chosen.fits
    if chosen.fits:
        assert again.throughput.tokens_per_second.mid >= 0.97 * chosen.throughput.tokens_per_second.mid


@pytest.mark.parametrize(
    ("field", "value"),
    [("micro_batch", 2), ("grad_accum", 64), ("zero_stage", 3), ("checkpointing", "block"), ("offload", "optimizer")],
)
def test_what_the_user_fixed_stays(field, value):
    config = preset("b1", "dense")
    config = replace(config, layout=replace(config.layout, **{field: value}))
    chosen = choose(config, gpus.resolve("A100-80GB-SXM"), 2, frozenset({field}))
    check(chosen.config)
    assert getattr(chosen.config.layout, field) == value


def test_a_fixed_zero_stage_on_one_gpu_needs_no_offload():
    config = with_layout(preset("debug200m", "dense"), LayoutConfig(zero_stage=3))
    chosen = choose(config, gpus.resolve("4090"), 1, frozenset({"zero_stage"}))
    assert (chosen.config.layout.zero_stage, chosen.config.layout.offload) == (3, "none")


@pytest.mark.parametrize(
    ("gpu", "count", "change", "fixed", "why"),
    [
        ("4090", 4, {}, set(), "178 sequences does not divide over 4 GPUs"),
        ("4090", 2, {"micro_batch": 7}, {"micro_batch"}, "micro_batch=7"),
        ("4090", 2, {"micro_batch": 89, "grad_accum": 2}, {"micro_batch", "grad_accum"}, "grad_accum=2"),
        ("4090", 2, {"n_gpus": 8}, {"n_gpus"}, "n_gpus=8 was asked for"),
        ("T4", 1, {}, set(), "no bf16 arithmetic"),
        ("MI250X", 1, {}, set(), "not known"),
        ("4090", 1, {"zero_stage": 0}, {"zero_stage"}, "bf16 at ZeRO stage 0"),
        ("4090", 1, {"expert_parallel": 2}, {"expert_parallel"}, "no experts that could be spread"),
    ],
)
def test_what_cannot_be_laid_out_says_why(gpu, count, change, fixed, why):
    config = preset("debug", "dense")
    config = replace(config, layout=replace(config.layout, **change))
    with pytest.raises(NoLayout, match=why):
        choose(config, gpus.resolve(gpu), count, frozenset(fixed))


def test_fp16_is_refused_on_a_cpu_and_planned_where_there_is_no_bf16():
    config = preset("debug", "dense")
    config = replace(config, training=replace(config.training, precision="fp16"))
    with pytest.raises(NoLayout, match="cpu has no fp16"):
        choose(config, CPU, 1, NOTHING)
    assert choose(config, gpus.resolve("T4"), 1, NOTHING).fits


def test_a_batch_that_is_no_multiple_of_the_sequence_has_no_layout():
    config = preset("debug", "dense")
    config = replace(config, training=replace(config.training, global_batch_tokens=3000))
    with pytest.raises(NoLayout, match="divide"):
        choose(config, CPU, 1, NOTHING)


def test_where_nothing_fits_the_layout_that_needs_least_is_shown():
    config = preset("b7", "hybrid")
    chosen = choose(config, gpus.resolve("4090"), 2, NOTHING)
    assert not chosen.fits
    assert (chosen.config.layout.micro_batch, chosen.config.layout.zero_stage) == (1, 3)


@given(st.sampled_from([1, 2, 8]))
def test_large_models_on_small_gpus_offload_and_small_models_do_not(count):
    assert choose(preset("debug200m", "dense"), gpus.resolve("4090"), count, NOTHING).config.layout.offload == "none"
    b7 = choose(preset("b7", "dense"), gpus.resolve("A100-80GB-PCIe"), count, NOTHING)
    # 16 bytes a parameter are 104 GiB: one GPU cannot hold the states, two can.
    assert (b7.config.layout.offload == "none") == (count > 1)


def test_a_sharding_that_moves_less_is_taken_though_one_that_keeps_more_fits():
    """Stage 2 scatters gradients where stage 1 reduces them whole: with more memory stage 1 fits as well, and is slower."""
    drawn = preset("debug", "moe")
    model = replace(drawn.model, vocab=128_256, d_model=1024, n_layers=43, n_heads=8, n_kv_heads=8, d_ff=2800, d_expert=1400)
    training = replace(drawn.training, tokens=10_000, unique_tokens=33, global_batch_tokens=512, seq_len=64)
    config = replace(drawn, model=replace(model, tie_embeddings=False), training=training, device="cuda")
    small = gpus.resolve("A4000")
    large = replace(small, memory_gib=2 * small.memory_gib, memory_bytes_usable=2 * small.memory_bytes_usable)
    slow, fast = (choose(config, gpu, 4, NOTHING).throughput.tokens_per_second.mid for gpu in (small, large))
    assert fast >= 0.97 * slow

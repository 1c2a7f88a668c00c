"""Memory: known sizes by hand, and what must hold for every model, layout and GPU."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.planner.memory import memory, with_room_for
from tests.planner.conftest import CPU, NAMED_GPUS, workloads
from trainer.config import LayoutConfig, ModelConfig, count_parameters, preset

GIB = 2**30
A100 = gpus.resolve("A100-80GB-SXM")
LAYOUTS = st.builds(
    LayoutConfig,
    n_gpus=st.sampled_from([1, 2, 4, 8]),
    micro_batch=st.sampled_from([1, 2, 8]),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
    checkpointing=st.sampled_from(["none", "block"]),
)
GPUS = st.sampled_from([*NAMED_GPUS, CPU])


def items(config, layout, gpu=A100):
    return {item.name: item.gib for item in memory(config, layout, gpu).items}


def test_states_of_mixed_precision_adamw_are_sixteen_bytes_a_parameter():
    config = preset("b1", "dense")
    n = count_parameters(config.model).total
    found = items(config, LayoutConfig(micro_batch=8, grad_accum=2))
    states = sum(found[name] for name in ("weights", "gradients", "optimizer moments", "fp32 master weights"))
    assert states == pytest.approx(16 * n / GIB)


def test_zero_shards_what_its_stage_says():
    config = preset("b1", "dense")
    whole, n = items(config, LayoutConfig(grad_accum=2)), 8
    for stage, sharded in ((1, {"optimizer moments", "fp32 master weights"}), (2, {"gradients"})):
        found = items(config, LayoutConfig(n_gpus=n, zero_stage=stage, grad_accum=2))
        for name in sharded:
            assert found[name] == pytest.approx(whole[name] / n)
    assert items(config, LayoutConfig(n_gpus=n, zero_stage=3))["weights"] == pytest.approx(whole["weights"] / n)


def test_activations_of_a_llama_block_by_hand():
    # One dense bf16 block of Llama 7B keeps, per token: input and second norm's input 2 x 8,192, two norm outputs 2 x 8,192, a
    # number for each norm 2 x 4, q, k, v and the heads' output 4 x 8,192, a log-sum-exp for 32 heads 128, and three widths of
    # 11,008 x 2 bytes: gate, up and their product.
    per_block = 4 * 8192 + 2 * 4 + 4 * 8192 + 128 + 3 * 22_016
    shape = ModelConfig("dense", 32_000, 4096, 32, 32, 32, 11_008, tie_embeddings=False)
    config = preset("b7", "dense")
    config = replace(config, model=shape, training=replace(config.training, seq_len=4096, global_batch_tokens=4096))
    found = items(config, LayoutConfig(n_gpus=8, zero_stage=2))
    kept = sum(found[name] for name in ("block inputs", "norms", "attention", "feed-forward"))
    assert kept == pytest.approx(32 * 4096 * per_block / GIB)


def test_seven_billion_parameters_do_not_fit_an_a100_without_offload():
    gib = memory(preset("b7", "dense"), LayoutConfig(checkpointing="block"), A100).gib
    assert gib.low > A100.usable_memory_gib
    assert memory(preset("b7", "dense"), LayoutConfig(checkpointing="block", zero_stage=2, offload="optimizer"), A100).gib.high < 79


def test_offloading_moves_the_states_to_the_host():
    config = preset("b7", "dense")
    there = memory(config, LayoutConfig(zero_stage=2, offload="optimizer"), A100)
    assert there.host_gib == pytest.approx(16 * count_parameters(config.model).total / GIB)
    assert not {"optimizer moments", "fp32 master weights"} & {i.name for i in there.items}
    assert memory(config, LayoutConfig(), A100).host_gib == 0


def test_the_process_itself_takes_memory_on_a_cpu_and_a_context_on_a_gpu():
    config = preset("debug", "dense")
    assert "process" in items(config, LayoutConfig(), CPU)
    assert "CUDA context" in items(config, LayoutConfig(), A100)
    assert "NCCL" not in items(config, LayoutConfig(), A100)
    assert "NCCL" in items(config, LayoutConfig(n_gpus=2), A100)


@given(workloads(), LAYOUTS, GPUS)
def test_items_add_up_to_the_middle_of_an_interval(config, layout, gpu):
    found = memory(config, layout, gpu)
    assert sum(item.gib for item in found.items) == pytest.approx(found.gib.mid)
    assert 0 < found.gib.low <= found.gib.mid <= found.gib.high
    assert all(item.gib > 0 for item in found.items)


@given(workloads(), LAYOUTS, GPUS, st.floats(0.6, 1.6))
def test_what_a_run_reports_moves_what_torch_gives_out_and_leaves_the_context(config, layout, gpu, factor):
    counted = memory(config, layout, gpu)
    moved, outside = counted.times(factor), counted.outside_gib
    assert moved.reported.mid == pytest.approx(factor * counted.reported.mid)
    assert moved.gib.mid == pytest.approx(factor * (counted.gib.mid - outside) + outside)
    assert sum(item.gib for item in moved.items) == pytest.approx(moved.gib.mid)
    assert 0 < moved.gib.low <= moved.gib.mid <= moved.gib.high <= max(moved.gib.mid, moved.upper_gib)
    assert (outside == 0) == (gpu.device == "cpu")
    assert {i.name: i.gib for i in moved.items}.get("CUDA context") == {i.name: i.gib for i in counted.items}.get("CUDA context")
    # A search on the GPU with that room finds just what fits by what was reported.
    room = with_room_for(gpu, layout.n_gpus, factor).usable_memory_gib
    assert (counted.upper_gib <= room - 1e-6) <= (moved.upper_gib <= gpu.usable_memory_gib)
    assert (moved.upper_gib <= gpu.usable_memory_gib - 1e-6) <= (counted.upper_gib <= room)


@given(workloads(), LAYOUTS, GPUS)
def test_recomputing_never_needs_more(config, layout, gpu):
    kept = memory(config, replace(layout, checkpointing="none"), gpu).gib
    recomputed = memory(config, replace(layout, checkpointing="block"), gpu).gib
    assert recomputed.mid <= kept.mid * (1 + 1e-12)
    assert recomputed.high <= kept.high * (1 + 1e-12)


@given(workloads(), LAYOUTS, GPUS)
def test_a_higher_zero_stage_never_needs_more_on_a_gpu(config, layout, gpu):
    needed = [memory(config, replace(layout, zero_stage=stage), gpu).gib for stage in range(4)]
    for lower, higher in itertools.pairwise(needed):
        assert higher.mid <= lower.mid * (1 + 1e-12)
        assert higher.high <= lower.high * (1 + 1e-12)


@given(workloads(), LAYOUTS, GPUS, st.sampled_from(["d_ff", "n_layers", "vocab", "seq_len", "micro_batch"]))
def test_a_larger_model_or_batch_never_needs_less(config, layout, gpu, grown):
    # The fixed routing pattern keeps comparisons fair: one more layer may be a routed one, which keeps less, but never nothing.
    before = memory(config, layout, gpu).gib
    if grown == "micro_batch":
        after = memory(config, replace(layout, micro_batch=2 * layout.micro_batch), gpu).gib
    elif grown == "seq_len":
        longer = replace(config.training, seq_len=2 * config.training.seq_len, global_batch_tokens=2 * config.training.global_batch_tokens)
        after = memory(replace(config, training=longer), layout, gpu).gib
    else:
        larger = replace(config.model, **{grown: 2 * getattr(config.model, grown)})
        after = memory(replace(config, model=replace(larger, d_expert=larger.d_ff // 2)), layout, gpu).gib
    assert after.mid >= before.mid * (1 - 1e-12)


@given(workloads(), LAYOUTS.filter(lambda layout: layout.n_gpus > 1), GPUS)
def test_more_gpus_never_need_more_each(config, layout, gpu):
    assert memory(config, replace(layout, n_gpus=2 * layout.n_gpus), gpu).gib.mid <= memory(config, layout, gpu).gib.mid * (1 + 1e-12)


def test_experts_cost_memory_of_all_and_activations_of_the_active():
    dense, moe = preset("b1", "dense"), preset("b1", "moe")
    d, m = items(dense, LayoutConfig(micro_batch=8)), items(moe, LayoutConfig(micro_batch=8))
    assert m["weights"] / d["weights"] == pytest.approx(count_parameters(moe.model).total / count_parameters(dense.model).total)
    assert 1 < m["feed-forward"] / d["feed-forward"] < 1.5


def test_depth_routing_keeps_less():
    dense, mod = preset("b1", "dense"), preset("b1", "mod")
    layout = LayoutConfig(micro_batch=8)
    assert items(mod, layout)["feed-forward"] == pytest.approx(items(dense, layout)["feed-forward"] * (0.5 + 0.5 * 0.125))

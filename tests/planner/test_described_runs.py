"""What must hold for every described run, whatever the framework: memory and speed by hypothesis, and absurd ones refused."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.planner import memory, throughput
from lumina_cloud.planner.reading import Description, Unreadable, read
from tests.planner.conftest import NAMED_GPUS

A100 = gpus.resolve("A100-80GB-SXM")
FRAMEWORKS = (
    None,
    "llm-foundry",
    "torchtitan",
    "torchtune",
    "DeepSpeed + HF",
    "nanoGPT",
    "modded-nanogpt",
    "Megatron-LM",
    "litgpt",
    "Megatron-Bridge",
    "Unsloth",
    "Levanter",
    "mine",
)


@st.composite
def descriptions(draw):
    """Runs of any size and kind on any GPU."""
    n_gpus = draw(st.sampled_from([1, 2, 8, 64]))
    spread = draw(st.sampled_from(["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP full", "FSDP grad_op"]))
    if n_gpus >= 8:
        spread += draw(st.sampled_from(["", " TP2", " TP4 PP2", " CP2", " EP8", " PP4 VP2"]))
    d_head = draw(st.sampled_from([64, 128]))
    n_heads = draw(st.sampled_from([4, 16, 64]))
    experts = draw(st.sampled_from([None, 8, 64]))
    return Description(
        gpu=draw(st.sampled_from(NAMED_GPUS)),
        n_gpus=n_gpus,
        n_layers=draw(st.integers(1, 100)),
        d_model=d_head * n_heads,
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([1, 2, 4])),
        d_ff=draw(st.sampled_from([512, 4096, 28_672])),
        gated_mlp=draw(st.sampled_from([None, True, False])),
        vocab=draw(st.sampled_from([None, 512, 50_257, 128_256])),
        tie_embeddings=draw(st.sampled_from([None, True, False])),
        n_experts=experts,
        top_k=None if experts is None else draw(st.sampled_from([1, 2, 8])),
        micro_batch=draw(st.sampled_from([None, 1, 4, 32])),
        grad_accum=draw(st.sampled_from([None, 1, 8])),
        seq_len=draw(st.sampled_from([1, 128, 2048, 65_536])),
        precision=draw(st.sampled_from(["bf16", "fp32", None, "bf16-true"])),
        optimizer=draw(st.sampled_from([None, "adamw", "8-bit adam", "sgd", "muon", "LoRA"])),
        parallelism=spread,
        activation_checkpointing=draw(st.sampled_from([None, "none", "selective", "full"])),
        offload=draw(st.sampled_from([None, "optimizer to CPU", "optimizer to CPU; params to CPU", "activations to CPU"])),
        attention=draw(st.sampled_from([None, "flash", "eager"])),
        compile=draw(st.sampled_from([None, True, False])),
        framework=draw(st.sampled_from(FRAMEWORKS)),
    )


def needs(d):
    found = read(d)
    return memory.of_setting(found.shape, found.setting, d.gpu)


def speed(d):
    found = read(d)
    return found.setting, throughput.of_setting(found.shape, found.setting, d.gpu)


@given(descriptions())
def test_estimates_are_finite_positive_and_in_order(d):
    m = needs(d)
    for interval in (m.gib, m.reported, speed(d)[1].tokens_per_second):
        assert 0 < interval.low <= interval.mid <= interval.high < math.inf
    assert m.gib.mid <= m.upper_gib < math.inf
    assert m.gib.high <= m.upper_gib
    assert sum(item.gib for item in m.items) == pytest.approx(m.gib.mid)


@given(descriptions())
def test_no_speed_is_above_the_peak(d):
    setting, found = speed(d)
    peak = setting.n_gpus * throughput.peak_flops(d.gpu, setting)
    assert found.tokens_per_second.high * found.executed_flops_per_token <= peak * (1 + 1e-9)
    assert 0 < throughput.mfu(found, setting, d.gpu) <= 1


@given(descriptions())
def test_recomputing_more_never_needs_more_memory(d):
    none, some, half, full = (needs(replace(d, activation_checkpointing=how)) for how in ("none", "selective", "every 2 layers", "full"))
    for less, more in ((some, none), (full, some), (full, half), (half, none)):
        assert less.gib.mid <= more.gib.mid * (1 + 1e-9)
        assert less.upper_gib <= more.upper_gib * (1 + 1e-9)


@given(descriptions(), st.sampled_from(["", " TP2"]))
def test_sharding_more_never_needs_more_memory(d, split):
    d = replace(d, framework="DeepSpeed")
    stages = [needs(replace(d, n_gpus=8, parallelism=f"ZeRO-{stage}{split}")) for stage in range(4)]
    for lower, higher in itertools.pairwise(stages):
        assert higher.gib.mid <= lower.gib.mid * (1 + 1e-9)
        assert higher.upper_gib <= lower.upper_gib * (1 + 1e-9)


@given(descriptions())
def test_offloading_never_needs_more_memory_on_the_gpu(d):
    here, some, most = (needs(replace(d, offload=how)) for how in (None, "optimizer to CPU", "optimizer to CPU; params to CPU"))
    assert some.gib.mid <= here.gib.mid * (1 + 1e-9)
    assert most.gib.mid <= some.gib.mid * (1 + 1e-9)


@given(descriptions(), st.sampled_from(["micro_batch", "n_layers", "vocab", "seq_len"]))
def test_a_larger_run_never_needs_less_memory(d, grown):
    d = replace(d, micro_batch=d.micro_batch or 2, vocab=d.vocab or 1000)
    # The last norm is counted to the blocks, whose average it makes smaller where there are more.
    assert needs(replace(d, **{grown: 2 * getattr(d, grown)})).gib.mid >= needs(d).gib.mid * (1 - 1e-6)


@pytest.mark.parametrize(
    "given_",
    [
        {},
        {"n_layers": 12, "d_model": 0},
        {"n_layers": -1, "d_model": 64},
        {"n_layers": 12, "d_model": 64, "n_heads": 128},
        {"n_layers": 12, "d_model": 512, "n_heads": 8, "n_kv_heads": 16},
        {"n_layers": 12, "d_model": 512, "n_experts": 2, "top_k": 4},
        {"n_layers": 12, "d_model": 512, "n_gpus": 2, "parallelism": "TP8"},
        {"n_layers": 12, "d_model": 512, "micro_batch": 0},
        {"n_layers": 10**10, "d_model": 512},
        {"params_total": 10**16},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_a_reason(given_):
    with pytest.raises(Unreadable, match=r"\w+ \w+"):
        read(Description(gpu=A100, **given_))


def test_no_more_micro_batches_are_in_flight_than_there_are():
    d = Description(gpu=A100, n_layers=32, d_model=4096, n_gpus=8, micro_batch=1, grad_accum=8, framework="nemo", parallelism="PP8 VP4")
    whole, few = needs(d), needs(replace(d, grad_accum=2))
    kept = [sum(item.gib for item in m.items if item.name == "feed-forward") for m in (whole, few)]
    assert kept[0] == pytest.approx(4 * kept[1])


def test_no_gpu_holds_less_than_its_part_of_the_experts():
    d = Description(
        gpu=A100, n_gpus=64, n_layers=24, d_model=2048, d_ff=1024, gated_mlp=True, n_experts=64, top_k=4, micro_batch=1,
        framework="Megatron-Bridge", parallelism="TP1 PP1 EP64",
    )  # fmt: skip
    experts = read(d).shape.expert_parameters / 2**30
    states = {item.name: item.gib for item in needs(d).items}
    assert states["optimizer moments"] >= 8 * experts / 64


def test_eight_bits_are_kept_by_those_who_keep_them():
    h100 = gpus.resolve("H100-80GB-SXM")
    d = Description(
        gpu=h100, n_layers=32, d_model=4096, d_ff=14_336, gated_mlp=True, n_gpus=8, micro_batch=8, attention="flash", compile=False
    )

    def kept(framework, precision):
        found = needs(replace(d, framework=framework, precision=precision))
        return sum(item.gib for item in found.items if item.name in ("norms", "attention", "feed-forward"))

    assert kept("Megatron-Bridge", "fp8") < 0.9 * kept("Megatron-Bridge", "bf16")
    assert kept("torchtitan", "fp8") == kept("torchtitan", "bf16")


def test_gpus_that_are_not_counted_follow_from_the_degrees():
    found = read(Description(gpu=A100, n_layers=80, d_model=8192, parallelism="TP8 PP2 DP4"))
    assert found.setting.n_gpus == 64
    assert "n_gpus=64" in found.assumed


def test_a_size_alone_is_enough_and_the_shape_is_named_as_assumed():
    found = read(Description(gpu=A100, params_total=7_000_000_000))
    assert found.shape.n_layers == 32
    assert 3800 < found.shape.d_model < 4400
    assert found.shape.parameters == 7_000_000_000
    assert {"n_layers=32", "seq_len=2048", "n_gpus=1", "precision=bf16"} <= set(found.assumed)


def test_a_size_in_a_name_is_enough_too():
    found = read(Description(gpu=A100, name="Megatron GPT-2 52B", n_gpus=64, parallelism="DP1 TP4 PP16"))
    assert found.shape.parameters == 52_000_000_000
    assert (found.setting.tensor, found.setting.pipeline, found.setting.replicas) == (4, 16, 1)


def test_a_complete_description_assumes_nothing_but_accumulation():
    d = Description(
        gpu=A100, n_gpus=8, n_layers=32, d_model=4096, n_heads=32, n_kv_heads=32, d_ff=11_008, gated_mlp=True, vocab=32_000,
        tie_embeddings=False, micro_batch=4, seq_len=2048, precision="bf16", optimizer="adamw", parallelism="FSDP full",
        activation_checkpointing="full", attention="flash", compile=False, framework="llm-foundry",
    )  # fmt: skip
    assert read(d).assumed == ("grad_accum=1",)
    assert read(d).shape.parameters == 6_738_415_616  # Llama 7B, exactly


def test_experts_are_counted_whole_and_computed_by_the_active():
    found = read(
        Description(
            gpu=A100, n_layers=48, d_model=2048, n_heads=32, n_kv_heads=4, d_ff=768, gated_mlp=True, vocab=151_936, n_experts=128, top_k=8
        )
    ).shape
    assert found.parameters == pytest.approx(30.5e9, rel=0.05)
    assert found.active_parameters == pytest.approx(3.3e9, rel=0.15)


def test_packed_streams_are_attended_in_windows():
    d = Description(gpu=A100, n_layers=12, d_model=768, n_heads=6, seq_len=65_536, micro_batch=8, framework="PyTorch nightly")
    whole = replace(d, framework="something else")
    assert speed(d)[1].tokens_per_second.mid > 3 * speed(whole)[1].tokens_per_second.mid

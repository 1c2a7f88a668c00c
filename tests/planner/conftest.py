"""Machines and workloads for the planner's tests, drawn at random or named."""

from decimal import Decimal

import pytest
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus, prices
from lumina_cloud.planner.estimate import Machine
from trainer.config import DataConfig, LayoutConfig, ModelConfig, RunConfig, TrainingConfig

NAMED_GPUS = [g for g in gpus.all_gpus() if g.usable_memory_gib is not None and g.bf16_tflops is not None]
CPU = gpus.cpu(cores=2, memory_gib=20.0)


def machine(gpu="RTX4090", count=1, usd="0.34", *, provider="vastai", interruptible=False):
    return Machine(provider, gpus.resolve(gpu), count, Decimal(usd), interruptible)


def local_machine(usd="0.05"):
    return Machine("local", CPU, 1, Decimal(usd), False)


@pytest.fixture(scope="session")
def market():
    """Every machine of the default price book, and this computer."""
    book = prices.load().prices
    return [Machine(p.provider, gpus.resolve(p.gpu), p.count, p.usd_per_hour, p.interruptible) for p in book] + [local_machine()]


@st.composite
def models(draw, archs=("dense", "moe", "mod", "hybrid")):
    """Trainable shapes from a hundred thousand to some ten billion parameters."""
    n_heads = draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    d_head = draw(st.sampled_from([32, 64, 128]))
    kv_groups = draw(st.sampled_from([g for g in (1, 2, 4, 8) if n_heads % g == 0]))
    d_ff = 16 * draw(st.integers(4, 900))
    return ModelConfig(
        arch=draw(st.sampled_from(archs)),
        vocab=draw(st.sampled_from([259, 512, 8192, 32_000, 128_256])),
        d_model=n_heads * d_head,
        n_layers=draw(st.integers(2, 48)),
        n_heads=n_heads,
        n_kv_heads=n_heads // kv_groups,
        d_ff=d_ff,
        d_expert=d_ff // 2,
        d_predictor=draw(st.sampled_from([8, 64])),
        mod_every=draw(st.sampled_from([1, 2])),
        mod_capacity=draw(st.sampled_from([0.125, 0.5, 0.6, 1.0])),
        tie_embeddings=draw(st.booleans()),
    )


@st.composite
def workloads(draw, archs=("dense", "moe", "mod", "hybrid")):
    """Configurations whose batch divides over one to eight GPUs."""
    seq_len = draw(st.sampled_from([64, 512, 2048, 8192]))
    batch = seq_len * draw(st.sampled_from([8, 16, 64, 512]))
    tokens = draw(st.integers(10**4, 10**13))
    return RunConfig(
        preset="drawn",
        model=draw(models(archs)),
        training=TrainingConfig(
            tokens=tokens,
            unique_tokens=draw(st.integers(1, tokens)),
            global_batch_tokens=batch,
            lr=1e-3,
            seq_len=seq_len,
            precision=draw(st.sampled_from(["bf16", "fp32"])),
        ),
        data=DataConfig(source="stdlib"),
        layout=LayoutConfig(grad_accum=batch // seq_len),
    )


@st.composite
def machines(draw):
    """Any GPU of the catalog that bf16 can be planned on, one to eight of it, or this computer."""
    gpu = draw(st.sampled_from([*NAMED_GPUS, CPU]))
    count = 1 if gpu is CPU else draw(st.sampled_from([1, 2, 4, 8]))
    usd = draw(st.decimals(min_value="0.01", max_value="100", places=2))
    return Machine("local" if gpu is CPU else "vastai", gpu, count, usd, draw(st.booleans()))

"""Steps on a processor from what was measured there: the reference blocks come out as measured, and widths between lie between."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given

from lumina_cloud.catalog import cpu_rates, gpus
from lumina_cloud.core.errors import DataError
from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.cpu_speed import cpu_step
from lumina_cloud.planner.memory import memory
from lumina_cloud.planner.throughput import throughput
from tests.planner.conftest import workloads
from trainer.config import LayoutConfig, preset

DOCUMENT = {
    "precision": "bf16", "threads": 1, "seq_len": 512, "widths": [128, 512], "tokens": [4096, 1024], "dense": [1.85e-05, 9.87e-05],
    "moe": [4.19e-05, 2.02e-04], "moe_few_tokens": 512, "moe_few_seconds": 0.09, "routed": [1.6e-06, 4.1e-06],
    "attention": [3.1e-06, 6.9e-06], "head": [5.5e-09, 1.28e-08],
    "step": [{"parameters": 434816.0, "seconds": 0.0146}, {"parameters": 7997952.0, "seconds": 0.144}], "base_gib": 0.241,
}  # fmt: skip
RATES = cpu_rates.from_document(DOCUMENT)
MEASURED_CPU = gpus.cpu(1, 20.0, (RATES,))


def reference(d, n_layers=4, arch="dense"):
    """The model whose blocks `trainer.calibrate` times."""
    model = preset("debug", arch).model
    d_ff = 16 * (11 * d // 64)
    return replace(
        model, d_model=d, n_layers=n_layers, n_heads=d // 64, n_kv_heads=max(1, d // 128), d_ff=d_ff, d_expert=d_ff // 2, vocab=512
    )


def step(model, micro_batch=8):
    setting = settings.of_layout(LayoutConfig(micro_batch=micro_batch), 512, "bf16")
    return cpu_step(shapes.of_model(model, 512), setting, RATES)


@pytest.mark.parametrize(("d", "measured"), [(128, 1.85e-05), (512, 9.87e-05)])
def test_the_reference_blocks_come_out_as_measured(d, measured):
    found = step(reference(d))
    assert found.matmul + found.attention == pytest.approx(4 * 8 * 512 * measured, rel=0.02)


def test_widths_between_take_between():
    taken = [step(reference(d)).matmul for d in (128, 256, 512, 1024)]
    assert taken == sorted(taken)
    # Wider is more efficient: less than four times the time for twice the width.
    assert all(wider < 4 * narrower for narrower, wider in itertools.pairwise(taken))


def test_experts_cost_kernels_of_their_own_however_few_tokens_there_are():
    few, many = (step(reference(128, arch="moe"), micro_batch=n).matmul for n in (1, 8))
    assert many < 8 * few


@given(workloads())
def test_a_plan_on_a_measured_processor_is_sound_and_narrower(config):
    config = replace(config, training=replace(config.training, precision="bf16"))
    known = throughput(config, config.layout, MEASURED_CPU).tokens_per_second
    assert 0 < known.low <= known.mid <= known.high
    unknown = throughput(config, config.layout, gpus.cpu(1, 20.0)).tokens_per_second
    assert known.high / known.low < unknown.high / unknown.low


def test_the_process_starts_from_what_was_measured():
    config = preset("debug", "dense")
    more = gpus.cpu(1, 20.0, (replace(RATES, base_gib=1.241),))
    here, there = (memory(config, config.layout, cpu).gib.mid for cpu in (MEASURED_CPU, more))
    assert there - here == pytest.approx(1.0)


@pytest.mark.parametrize("damage", [{"dense": [1]}, {"head": ["x", 1]}, {"moe": [float("nan"), 1]}, {"step": None}, {"base_gib": -1}])
def test_a_damaged_measurement_is_refused(damage):
    with pytest.raises(DataError, match="not a measurement"):
        cpu_rates.from_document({**DOCUMENT, **damage})
    with pytest.raises(DataError):
        cpu_rates.from_document(json.loads("[]"))

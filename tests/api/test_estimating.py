"""`lumina estimate`: one answer a line, in order, whatever the line says."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import cpu_benchmark, estimating

EXAMPLE = {
    "id": "x1",
    "model": {
        "n_layers": 32, "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "d_ff": 11008, "gated_mlp": True, "vocab": 32000,
        "tie_embeddings": False, "n_experts": None, "top_k": None, "params_total": None, "params_active": None,
    },
    "gpu": "A100-80GB-SXM", "n_gpus": 8, "interconnect": None, "micro_batch": 4, "grad_accum": None, "global_batch_tokens": None,
    "seq_len": 2048, "precision": "bf16", "optimizer": "adamw", "parallelism": "FSDP full", "activation_checkpointing": "full",
    "offload": None, "attention": "flash", "compile": False, "framework": "llm-foundry",
}  # fmt: skip


@pytest.fixture(autouse=True)
def unmeasured(tmp_path, monkeypatch):
    """The processor by the catalog: `test_cpu_benchmark` measures a real one, and nobody's own home is touched here."""
    monkeypatch.setattr(estimating, "_this_cpu", lambda _precision: cpu_benchmark.local_cpu(tmp_path))


def ask(**changes):
    return json.loads(next(estimating.answers([json.dumps({**EXAMPLE, **changes})])))


def test_the_example_is_answered_with_all_keys():
    found = ask()
    assert found["id"] == "x1"
    for name in ("tokens_per_second_per_gpu", "peak_memory_gib"):
        assert 0 < found[name]["low"] < found[name]["mid"] < found[name]["high"]
    assert 0.3 < found["mfu"] < 0.6
    assert found["fits"] is True
    assert found["basis"] == "modelled"
    assert found["assumed"] == ["grad_accum=1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "Llama-3-8B"}, {"model": {"model_name": "GPT-2 52B"}}, {"model": {}, "model_name": "GPT-2 52B"},
        {"model": {"params_total": "7B"}}, {"model": {**EXAMPLE["model"], "vocab": "32,000", "top_k": 0}},
        {"model": {**EXAMPLE["model"], "gated_mlp": "SwiGLU", "n_experts": "-"}}, {"seq_len": "2k"}, {"gpu": "8x A100-80GB-SXM"},
        {"parallelism": ["FSDP", "TP2"]}, {"parallelism": {"tp": 2, "dp": 4}}, {"offload": "none (all on GPU)"}, {"compile": "unknown"},
    ],
    ids=str,
)  # fmt: skip
def test_other_spellings_are_understood(changes):
    assert "error" not in ask(**changes)


def test_the_stream_goes_on_after_lines_that_cannot_be_answered():
    lines = [
        json.dumps({"id": 1, "model": {}, "gpu": "A100-80GB-SXM"}), "nonsense", "[1]", "", json.dumps({"id": 2, "gpu": "4090"}),
        json.dumps({"id": 3, "model": {"n_layers": 2, "d_model": 64}, "gpu": "Voodoo 2"}), json.dumps(EXAMPLE),
    ]  # fmt: skip
    found = [json.loads(line) for line in estimating.answers(lines)]
    assert [f["id"] for f in found] == [1, None, None, 2, 3, "x1"]
    assert ["error" in f for f in found] == [True] * 5 + [False]
    assert all(f["error"] and "Traceback" not in f["error"] for f in found[:-1])


@pytest.mark.parametrize(
    ("name", "is_"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"), ("A100 SXM 40 GB", "A100-40GB-SXM"), ("H100 SXM5 80GB HBM3", "H100-80GB-SXM"),
        ("A10G", None), ("NVIDIA GeForce RTX 4090", "RTX4090"), ("v100", "V100-16GB"), ("A800", None), ("H100 PCIe", "H100-80GB-PCIe"),
    ],
)  # fmt: skip
def test_gpus_by_other_names(name, is_):
    found = ask(gpu=name)
    assert "error" not in found
    if is_:
        same = ask(gpu=is_)
        assert found["usable_memory_gib"] == same["usable_memory_gib"]


def test_an_unknown_gpu_with_given_figures():
    found = ask(gpu={"name": "X1", "memory_gib": 64, "bf16_tflops": 200, "bandwidth_gb_s": 2000})
    assert found["usable_memory_gib"] == pytest.approx(0.985 * 64)
    assert found["tokens_per_second_per_gpu"]["mid"] < ask()["tokens_per_second_per_gpu"]["mid"]
    assert "error" in ask(gpu={"name": "X1", "memory_gib": 64})
    assert "error" in ask(gpu={"name": "X1", "memory_gib": -1, "bf16_tflops": 200})


@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": 1}, {"n_gpus": 10_000}, {"global_batch_tokens": 10**18}, {"global_batch_tokens": 0}, {"seq_len": 0},
        {"micro_batch": 10**9},
        {"model": {"params_total": 1e15}}, {"model": {"params_total": 1}}, {"model": {"n_layers": 1e300, "d_model": 1}}, {"gpu": ""},
        {"model": {"n_layers": 10**9, "d_model": 10**9}}, {"gpu": None}, {"model": None}, {"n_gpus": "many"}, {"seq_len": 1.5},
        {"gpu": "cpu"},
        {"precision": "bf16", "gpu": "T4"}, {"precision": "fp8", "gpu": "A100-80GB-SXM"}, {"parallelism": "TP16"}, {"n_gpus": 10**9},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_requests_get_an_answer_or_a_clear_error(changes):
    found = ask(**changes)
    if "error" in found:
        assert found["error"].strip()
        assert set(found) == {"id", "error"}
    else:
        assert_sound(found)


def assert_sound(found):
    for name in ("tokens_per_second_per_gpu", "peak_memory_gib"):
        low, mid, high = (found[name][k] for k in ("low", "mid", "high"))
        assert 0 < low <= mid <= high < math.inf
    assert 0 < found["mfu"] <= 1
    assert isinstance(found["fits"], bool)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from([*EXAMPLE]), JSON, max_size=4), st.dictionaries(st.sampled_from([*EXAMPLE["model"]]), JSON, max_size=3)
)
def test_any_line_gets_one_answer_that_is_json_without_infinity(changes, model):
    request = {**EXAMPLE, "model": {**EXAMPLE["model"], **model}, **changes}
    lines = list(estimating.answers([json.dumps(request)]))
    assert len(lines) == 1
    found = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} in the answer"))
    if "error" not in found:
        assert_sound(found)


@given(st.text(max_size=80))
def test_no_text_breaks_the_stream(text):
    for line in estimating.answers(text.splitlines()):
        assert "error" in json.loads(line)


def test_a_derivation_can_be_had_beside_the_figures():
    found = json.loads(next(estimating.answers([json.dumps(EXAMPLE)], explained=True)))
    text = "\n".join(found["derivation"])
    assert "peak of A100-80GB-SXM = 312 TFLOP/s" in text
    assert "6,738,415,616" in text


def test_ten_thousand_requests_are_a_matter_of_seconds():
    # No bar on a shared machine: a thousand must stay far below the two seconds that the whole may take.
    began = time.process_time()
    assert sum(1 for _ in estimating.answers([json.dumps(EXAMPLE)] * 1000)) == 1000
    assert time.process_time() - began < 20

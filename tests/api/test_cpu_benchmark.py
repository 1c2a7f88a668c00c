"""This computer's processor is measured once, by the trainer itself, and what was kept is used or measured again."""

import json

import pytest

from lumina_cloud.api import cpu_benchmark


@pytest.mark.trains
def test_it_is_measured_at_first_use_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cpu_benchmark.local_cpu(tmp_path).rates == ()
    measured = cpu_benchmark.local_cpu(tmp_path, measure="bf16")
    (rates,) = measured.rates
    assert rates.threads == 1
    assert rates.dense[0] < rates.dense[1]
    # The second time nothing runs: a command that fails is never called.
    monkeypatch.setattr(cpu_benchmark.sys, "executable", "/bin/false")
    assert cpu_benchmark.local_cpu(tmp_path, measure="bf16").rates == (rates,)
    # What was damaged is as if it were not there.
    (kept,) = (tmp_path / "cpu").glob("bf16-*.json")
    kept.write_text(json.dumps({"precision": "bf16"}))
    assert cpu_benchmark.local_cpu(tmp_path, measure="bf16").rates == ()


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu avx avx2 fma", False), ("avx2 avx512f avx512bw", True), ("avx2 avx512f avx512bw avx512_bf16 amx_bf16", True), ("", True)],
)
def test_processors_without_wide_instructions_compute_bf16_slowly(flags, has):
    assert cpu_benchmark.has_bf16(flags) is has

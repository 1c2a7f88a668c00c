"""The page of performance holds each figure against what it is to be, and says which are not reached."""

import json

import pytest
import torch

from trainer import bench_gpu
from trainer.performance import BARS, GPU_BARS, GPU_FILE, gpu_figures, page
from trainer.step_profile import KINDS, REST, profile

FIGURES = {
    "dense_over_transformers": {"fp32": 1.2, "bf16": 1.1, "fp32_32k": 1.0, "bf16_32k": 1.3, "compiled": None},
    **{"moe_over_transformers": 1.5, "mod_over_dense": 1.6, "hybrid_over_moe": 1.39, "memory_over_transformers": 0.71},
    **{"ops_over_transformers": 0.6, "flops_over_formula": {"dense": 1.0, "moe": 0.99}, "graph_breaks": {"dense": 0, "moe": 0}},
    **{"data_wait_share": 0.001, "matmul_share": 0.8, "seconds_to_first_step": 6.0},
}


def test_what_is_not_reached_is_said():
    lines = [line for line in page(FIGURES).splitlines() if line.startswith("| ")][2:]
    assert len(lines) == len(BARS)
    missed = [line for line in lines if "**not reached**" in line]
    assert [line.split(" | ")[1] for line in missed] == ["1", "1.39", "0.71"]
    assert sum("not measured: no compiler" in line for line in lines) == 1
    assert "take 80% of a dense fp32 step" in page(FIGURES)


def test_a_profile_says_what_could_be_reached_at_most():
    spent = {"matrix products": 80.0, "attention": 10.0, "optimizer": 10.0}
    found = {"fp32": {"ours": {**spent, REST: 5.0}, "theirs": {**spent, REST: 10.0}}}
    lines = page({**FIGURES, "profiles": found}).splitlines()
    assert "| fp32 | ours | 80 | 10 | 10 | 5 | 105 | 1.10 |" in lines
    assert "| fp32 | `transformers` | 80 | 10 | 10 | 10 | 110 |  |" in lines


def test_a_profile_counts_every_operator_once_and_products_among_them():
    weights = torch.ones(256, 256, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], fused=True)

    def step():
        loss = (weights @ weights).exp().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    spent = profile(step)
    assert set(spent) == {*KINDS, REST}
    assert min(spent["matrix products"], spent["optimizer"], spent[REST]) > 0 == spent["attention"]


def test_a_gpu_that_is_measured_again_takes_its_own_place_and_the_page_shows_each(tmp_path):
    file = tmp_path / GPU_FILE
    assert gpu_figures(tmp_path) == []
    assert "No GPU was at hand" in page(FIGURES, gpu_figures(tmp_path))
    steps = {arch: bench_gpu.Steps(speed, 20.0) for arch, speed in (("dense", 8e4), ("moe", 7e4), ("mod", 1.2e5), ("hybrid", 1e5))}
    for gpu, day in (("A", "2026-01-01"), ("B", "2026-01-02"), ("A", "2026-01-03")):
        measured = {"gpu": gpu, "measured": day, "torch": "2.11", **bench_gpu.figures(steps, bench_gpu.shape())}
        bench_gpu.write(file, bench_gpu.known(file), json.loads(json.dumps(measured)))
    assert [(one["gpu"], one["measured"]) for one in gpu_figures(tmp_path)] == [("A", "2026-01-03"), ("B", "2026-01-02")]
    file.with_name("former.json").write_text(json.dumps(gpu_figures(tmp_path)[0]))
    with pytest.raises(ValueError, match="no list of GPUs"):
        bench_gpu.known(file.with_name("former.json"))
    lines = page(FIGURES, gpu_figures(tmp_path)).splitlines()
    assert [line for line in lines if line.startswith("### ")] == ["### One A, 2026-01-03", "### One B, 2026-01-02"]
    assert sum(line.startswith(f"| {bar.words} |") for line in lines for bar in GPU_BARS) == 2 * len(GPU_BARS)

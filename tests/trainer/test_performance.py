"""The page of performance holds each figure against what it is to be, and says which are not reached."""

from trainer.performance import BARS, page

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

"""The published rows come back unchanged, each with what speaks against it in numbers."""

import re

import pytest

from lumina_cloud.planner.published import published
from trainer.config import ARCHS, MODELS

ROWS = {
    ("debug", "dense"): (5.47, 237.3, 8 / 60, 1.6, 104_000, "0.04", "CPU/Any GPU"),
    ("debug", "moe"): (5.29, 198.5, 14 / 60, 2.8, 59_500, "0.08", "any GPU"),
    ("debug200m", "dense"): (3.82, 45.7, 1.4, 6.8, 119_000, "0.39", "RTX 3060 Ti+"),
    ("debug200m", "mod"): (3.91, 49.9, 58 / 60, 6.6, 172_000, "0.27", "RTX 3090"),
    ("debug200m", "hybrid"): (3.68, 39.6, 1.2, 10.2, 139_000, "0.34", "RTX 3090"),
    ("b1", "dense"): (3.18, 24.1, 5.8, 17.2, 96_000, "1.97", "RTX 3090/4090"),
    ("b1", "moe"): (3.01, 20.3, 7.6, 29.4, 73_000, "8.36", "A100 40GB"),
    ("b1", "mod"): (3.25, 25.8, 4.2, 16.8, 132_000, "1.43", "RTX 4090"),
    ("b1", "hybrid"): (2.93, 18.7, 6.1, 28.2, 91_000, "6.71", "A100 40GB"),
    ("b7", "dense"): (2.31, 10.1, 52, 52.8, 74_500, "98.28", "A100 80GB"),
    ("b7", "moe"): (2.11, 8.3, 72, 138.6, 54_000, "272.16", "2x A100 80GB"),
    ("b7", "mod"): (2.39, 10.9, 35, 51.4, 110_800, "66.15", "A100 80GB"),
    ("b7", "hybrid"): (2.06, 7.8, 57, 134.2, 68_000, "215.46", "2x A100 80GB"),
}


def rows():
    return {(r.model, r.arch): r for r in published(MODELS, ARCHS)}


def test_all_thirteen_rows_come_back_unchanged():
    found = {k: (r.loss, r.ppl, r.hours, r.vram_gb, r.tokens_per_second, str(r.usd), r.hardware) for k, r in rows().items()}
    assert found == ROWS


def test_only_rows_that_exist_are_returned():
    assert [(r.model, r.arch) for r in published(("debug", "b7"), ("mod",))] == [("b7", "mod")]
    assert published(("debug",), ("hybrid",)) == ()


@pytest.mark.parametrize("key", [k for k in ROWS if k[0] in ("b1", "b7")], ids="-".join)
def test_every_large_row_contradicts_its_own_speed_the_peak_its_price_and_its_batch(key):
    fails = rows()[key].fails
    assert any(re.search(r"tokens/s take .* stated .*(10|9\.9\d) times more", f) for f in fails), fails
    assert any("TFLOP/s" in f and "peak" in f for f in fails), fails
    assert any("speed needs cost" in f for f in fails), fails
    assert any(re.search(r"stated (512K|1M): (1\.9\d|3\.8\d) times more", f) for f in fails), fails


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        (("b7", "dense"), ("522 h", "52 h", "$986.58", "$98.28", "3,129", "312", "7.5 bytes", "53.0 h")),
        (("b1", "dense"), ("57.9 h", "5.8 h", "$19.68", "$1.97", "576", "165", "262,144", "512K", "6.0 h")),
        (("b1", "moe"), ("3.7 bytes", "ratio of 8", "at most 4")),
        (("b7", "moe"), ("2.5 bytes", "56B", "2 x A100-80GB-PCIe peak at 624")),
        (("b7", "mod"), ("47% of the FLOPs taken off",)),
        (("debug200m", "mod"), ("6B total", "depth routing adds no parameters")),
        (("debug200m", "hybrid"), ("ratio of 30", "1.7 bytes")),
        (("b1", "mod"), ("named the best in training time", "8 min")),
    ],
    ids=lambda value: "-".join(value) if len(value) == 2 else "",
)
def test_fails_name_the_numbers(key, numbers):
    text = " | ".join(rows()[key].fails)
    for number in numbers:
        assert number in text


def test_what_rounding_could_explain_is_said_beside_it():
    assert any("178.22 sequences of 2,048, no whole number: 364,544 rounds to it" in fail for fail in rows()["debug", "dense"].fails)
    assert any("could explain all of the" in fail for fail in rows()["b1", "dense"].fails)
    assert any("could explain 0." in fail for fail in rows()["b7", "dense"].fails)


def test_what_agrees_is_not_said_to_fail():
    for key, row in rows().items():
        assert not any("perplexity" in f for f in row.fails), key
        if key[0].startswith("debug"):
            assert not any("tokens/s take" in f or "cost" in f for f in row.fails), key

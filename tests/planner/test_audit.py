"""Claims against arithmetic and physics: the whole published document, a clean table, and one planted error for each rule."""

from dataclasses import replace
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import benchmarks
from lumina_cloud.planner.audit import Rule, audit, audit_row
from lumina_cloud.planner.audit_document import audit_document
from lumina_cloud.planner.claims import Claim, Claims, Parts, of_document
from lumina_cloud.planner.unchecked import unchecked

DENSE = Claim(
    row="b1/dense",
    model="b1",
    arch="dense",
    tokens=20e9,
    tokens_per_second=12_000,
    hours=463,
    usd=Decimal("157.42"),
    usd_per_hour=Decimal("0.34"),
    usd_per_billion_tokens=Decimal("7.87"),
    provider="vastai",
    gpu="RTX 4090",
    vram_gb=18.0,
    active_parameters=1e9,
    total_parameters=1e9,
    loss=3.18,
    ppl=24.1,
    micro_batch=4,
    grad_accum=64,
    batch_tokens=524_288,
)
MOD = replace(
    DENSE,
    row="b1/mod",
    arch="mod",
    tokens_per_second=18_000,
    hours=308.6,
    usd=Decimal("104.93"),
    usd_per_billion_tokens=Decimal("5.25"),
    capacity=0.5,
    skip_rate_percent=50,
    flops_reduction_percent=43,
    loss=3.22,
    ppl=25.0,
    against_dense=(("loss", 1.3), ("hours", -33), ("tokens_per_second", 50), ("usd", -33)),
    winner=("hours",),
)
MOE = replace(DENSE, row="b1/moe", arch="moe", gpu="A100-80GB", total_parameters=3e9, n_experts=8, top_k=2, vram_gb=30.0)
CLEAN = Claims((DENSE, MOD, MOE), (Parts("breakdown/b1/dense", 5.8, (2.0, 1.9, 1.9)),))

PLANTED = {
    "time": (DENSE, {"hours": 46.3, "usd": None}, 46.3, 463.0),
    "cost": (DENSE, {"usd": Decimal("15.74"), "usd_per_billion_tokens": None}, 15.74, 157.42),
    "peak": (DENSE, {"tokens_per_second": 96_000, "hours": 57.9, "usd": Decimal("19.68"), "usd_per_billion_tokens": None}, 576, 165.2),
    "memory": (DENSE, {"vram_gb": 6.0}, 6.0, 8.0),
    "experts": (MOE, {"total_parameters": 8e9, "vram_gb": 80.0}, 8.0, 4.0),
    "batch": (DENSE, {"grad_accum": 32}, 524_288, 262_144),
    "ppl": (DENSE, {"ppl": 20.3}, 20.3, 24.05),
    "percent": (MOD, {"against_dense": (("loss", 2.4),)}, 2.4, 1.26),
    "cost_per_token": (DENSE, {"usd_per_billion_tokens": Decimal("0.01")}, 0.01, 7.87),
    "winner": (DENSE, {"winner": ("hours",)}, 463.0, 308.6),
    "availability": (DENSE, {"provider": "runpod", "gpu": "A100 40GB"}, None, None),
}


def test_a_clean_table_gives_no_finding():
    assert audit(CLEAN) == ()


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_error_is_found_and_nothing_else(rule):
    claim, change, claimed, possible = PLANTED[rule]
    planted = replace(claim, **change)
    (found,) = audit_row(planted, [planted, *(c for c in CLEAN.rows if c.row != claim.row)])
    assert (found.row, found.rule) == (claim.row, rule)
    assert found.claimed == (claimed if claimed is None else pytest.approx(claimed, rel=0.01))
    assert found.possible == (possible if possible is None else pytest.approx(possible, rel=0.01))
    assert found.ratio is None or found.ratio > 1
    assert found.text


@pytest.mark.parametrize(
    ("claim", "change", "claimed", "possible"),
    [
        (MOE, {"total_parameters": 0.5e9}, 1e9, 0.5e9),
        (MOE, {"total_parameters": 4.2e9, "vram_gb": 40.0}, None, None),
        (DENSE, {"active_parameters": 2e9, "tokens_per_second": None}, 2e9, 1e9),
        (MOD, {"active_parameters": 2e9, "tokens_per_second": None, "against_dense": ()}, 2e9, 1e9),
        (DENSE, {"total_parameters": 8e9, "vram_gb": 80.0, "gpu": None}, 8e9, 1e9),
        (DENSE, {"total_parameters": 1.3e9}, None, None),
        (DENSE, {"total_parameters": 0.96e9}, None, None),
        (MOE, {"n_experts": 4, "top_k": 8}, 8, 4),
    ],
)
def test_total_and_active_parameters_are_held_against_each_other(claim, change, claimed, possible):
    expected = [] if claimed is None else [("experts", claimed, possible)]
    found = audit_row(replace(claim, **change), [])
    assert [(f.rule, f.claimed, f.possible) for f in found] == expected


@pytest.mark.parametrize(("vram_gb", "gpus", "is_found"), [(26.0, 1, False), (30.0, 1, True), (45.0, 2, False), (60.0, 2, True)])
def test_memory_above_what_the_gpus_hold_is_found(vram_gb, gpus, is_found):
    found = audit_row(replace(DENSE, vram_gb=vram_gb, gpus=gpus, micro_batch=None), CLEAN.rows)
    assert [(f.rule, f.claimed, f.possible) for f in found] == ([("memory", vram_gb, 24 * gpus)] if is_found else [])


@pytest.mark.parametrize(("loss", "ppl", "is_found"), [(3.2, 23.4, False), (3.2, 22.0, True), (3.18, 24, False), (3.18, 24.9, True)])
def test_a_perplexity_is_held_against_a_loss_as_far_as_both_are_printed(loss, ppl, is_found):
    assert [f.rule for f in audit_row(replace(DENSE, loss=loss, ppl=ppl), CLEAN.rows)] == ["ppl"] * is_found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "RTX 9999"}, 'GPU "RTX 9999" is not known: its speed is not checked'),
        ({"gpu": "cpu"}, 'GPU "cpu" is not known'),
        ({"active_parameters": None}, "no active parameters are stated"),
        ({"seq_len": None}, "no sequence length is stated: its batch is not checked"),
        ({"best_in": ("overall",)}, 'best in "overall" does not say by which figure'),
    ],
)
def test_what_could_not_be_checked_is_said(change, said):
    assert unchecked(CLEAN) == ()
    planted = Claims((replace(DENSE, **change),))
    (note,) = unchecked(planted)
    assert note.startswith("b1/dense: ")
    assert said in note
    assert audit(planted) == ()


def test_a_breakdown_that_does_not_add_up_is_found():
    (found,) = audit(replace(CLEAN, breakdowns=(Parts("breakdown/b1/dense", 5.8, (1.9, 1.9, 1.8, 0.5)),)))
    assert (found.row, found.rule, found.claimed, found.possible) == ("breakdown/b1/dense", "sum", 5.8, pytest.approx(6.1))


@pytest.mark.parametrize(
    ("parts", "explained"), [((1.9, 1.8, 1.8, 0.5), "all"), ((1.9, 1.9, 1.8, 0.5), "0.25"), ((1.9, 1.8, 1.8, 0.34), None)]
)
def test_a_sum_is_held_against_what_is_written_and_says_what_rounding_explains(parts, explained):
    found = audit(replace(CLEAN, breakdowns=(Parts("breakdown/b1/dense", 5.8, parts),)))
    assert [f"could explain {explained}" in f.text for f in found] == ([] if explained is None else [True])


@pytest.mark.parametrize(
    ("capacity", "skipped", "is_found"), [(0.5, 51, False), (0.5, 46, False), (0.5, 44, True), (0.5, 30, True), (1.0, 2, False)]
)
def test_no_fewer_tokens_skip_than_the_capacity_leaves_over(capacity, skipped, is_found):
    found = audit_row(replace(MOD, capacity=capacity, skip_rate_percent=skipped), CLEAN.rows)
    assert [(f.rule, f.claimed, f.possible) for f in found] == ([("percent", skipped, 100 * (1 - capacity))] if is_found else [])


@pytest.mark.parametrize(
    ("tokens", "rounding", "said"),
    [
        (365_000, None, "364,544 rounds to it"),
        (365_100, None, "however it was rounded"),
        (364_544, None, None),
        (360_000, 50, "however it was rounded"),
        (360_000, 500, "360,448 rounds to it"),
    ],
)
def test_a_batch_that_is_no_whole_number_of_sequences_says_whether_rounding_explains_it(tokens, rounding, said):
    claim = replace(DENSE, micro_batch=None, batch_tokens=tokens, batch_rounding=rounding)
    found = audit_row(claim, CLEAN.rows)
    assert [(f.rule, said in f.text) for f in found] == ([] if said is None else [("batch", True)])


def test_every_rule_has_a_planted_error():
    assert {*PLANTED, "sum"} == set(get_args(Rule))


@given(st.sampled_from(CLEAN.rows), st.floats(0.01, 100))
def test_the_ratio_is_by_how_much_a_claim_is_off(claim, factor):
    found = [f for f in audit_row(replace(claim, hours=claim.hours * factor, against_dense=(), winner=()), CLEAN.rows) if f.rule == "time"]
    assert bool(found) == (abs(1 - factor) > 0.11 if factor < 1 else abs(1 - 1 / factor) > 0.11) or 0.88 < factor < 1.13
    for f in found:
        assert f.ratio == pytest.approx(max(factor, 1 / factor), rel=0.01)


# --- the published document ----------------------------------------------------------------------------------------------


def found():
    return {(f.row, f.rule) for f in audit_document(benchmarks.load())}


@pytest.mark.parametrize("row", [f"{model}/{arch}" for model in ("b1", "b7") for arch in ("dense", "moe", "mod", "hybrid")])
def test_every_large_row_fails_on_time_cost_peak_and_batch(row):
    for rule in ("time", "cost", "peak", "batch"):
        assert (row, rule) in found()


@pytest.mark.parametrize(
    "expected",
    [
        ("b1/moe", "experts"),
        ("b7/hybrid", "experts"),
        ("debug/moe", "experts"),
        ("debug200m/mod", "experts"),
        ("b7/dense", "memory"),
        ("b7/moe", "memory"),
        ("b1/moe", "memory"),
        ("debug200m/dense", "cost_per_token"),
        ("b1/mod", "winner"),
        ("b1/moe", "availability"),
        ("prices/A100 40GB", "availability"),
        ("prices/RTX 4090 24GB", "availability"),
        ("breakdown/b7/dense", "sum"),
        ("insights/moe", "percent"),
        ("memory_example/b7/dense", "memory"),
        ("memory_example/b7/dense", "percent"),
        ("debug/dense", "batch"),
        ("breakdown/b1/dense", "sum"),
    ],
    ids="-".join,
)
def test_what_the_design_names_is_found(expected):
    assert expected in found()


def test_what_is_right_is_not_said_to_be_wrong():
    rules = found()
    assert not [row for row, rule in rules if rule == "ppl"]
    assert ("b7/mod", "percent") not in rules
    assert not [row for row, rule in rules if row.startswith(("tiers/", "scenario/", "winners/", "conclusion"))]
    assert ("debug200m/dense", "time") not in rules
    assert ("b1/dense", "cost_per_token") not in rules


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: replace(d, winners=(replace(d.winners[1], arch="dense"),)), ("winners/Best Budget", "winner")),
        (lambda d: replace(d, winners=(replace(d.winners[0], loss=1.9), *d.winners[1:])), ("winners/Best Quality", "winner")),
        (lambda d: replace(d, tiers=(replace(d.tiers[0], cost_usd=(Decimal(1), Decimal("1.5"))), *d.tiers[1:])), ("tiers/Budget", "cost")),
        (lambda d: replace(d, tiers=(*d.tiers[:2], replace(d.tiers[2], time=(0.5, 1.0)))), ("tiers/Production", "sum")),
        (
            lambda d: replace(d, scenario=replace(d.scenario, options=(replace(d.scenario.options[0], hours=3.0),))),
            ("scenario/A", "time"),
        ),
        (lambda d: replace(d, conclusion=replace(d.conclusion, mod_faster_percent=(40, 50))), ("conclusion", "percent")),
    ],
)
def test_a_planted_error_in_a_section_is_found(change, expected):
    assert expected in {(f.row, f.rule) for f in audit_document(change(benchmarks.load()))}


def test_the_document_as_claims_has_all_thirteen_rows():
    assert len(of_document(benchmarks.load()).rows) == 13

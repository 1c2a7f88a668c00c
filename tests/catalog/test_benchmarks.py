"""The published benchmark is held whole: every figure below was typed from the document, not from the data file."""

from decimal import Decimal

import pytest

from lumina_cloud.catalog import benchmarks

# model arch: loss ppl time unit vram tokens/s usd machine | batch accumulation stated | utilisation balance skip flops
ROWS = """
debug     dense  5.47 237.3 8   minutes 1.6   104000 0.04   any GPU      - -   -    - -    -  -
debug     moe    5.29 198.5 14  minutes 2.8   59500  0.08   any GPU      - -   -    - -    -  -
debug200m dense  3.82 45.7  1.4 hours   6.8   119000 0.39   RTX 3090     - -   -    - -    -  -
debug200m mod    3.91 49.9  58  minutes 6.6   172000 0.27   RTX 3090     - -   -    - -    48 43
debug200m hybrid 3.68 39.6  1.2 hours   10.2  139000 0.34   RTX 3090     - -   -    - -    -  -
b1        dense  3.18 24.1  5.8 hours   17.2  96000  1.97   RTX 4090     4 32  512K - -    -  -
b1        moe    3.01 20.3  7.6 hours   29.4  73000  8.36   A100 40GB    2 64  512K 80 0.88 - -
b1        mod    3.25 25.8  4.2 hours   16.8  132000 1.43   RTX 4090     4 32  512K - -    38 -
b1        hybrid 2.93 18.7  6.1 hours   28.2  91000  6.71   A100 40GB    2 64  512K - -    -  -
b7        dense  2.31 10.1  52  hours   52.8  74500  98.28  A100 80GB    1 128 1M   - -    -  -
b7        moe    2.11 8.3   72  hours   138.6 54000  272.16 2x A100 80GB 1 128 1M   83 0.85 - -
b7        mod    2.39 10.9  35  hours   51.4  110800 66.15  A100 80GB    1 128 1M   - -    51 47
b7        hybrid 2.06 7.8   57  hours   134.2 68000  215.46 2x A100 80GB 1 128 1M   - -    -  -
"""


def figure(value):
    return "-" if value is None else f"{value:g}" if isinstance(value, float | int) else str(value)


def line(row):
    first = [row.model, row.arch, *map(figure, (row.loss, row.ppl, row.time)), row.time_unit, figure(row.vram_gb)]
    last = [row.micro_batch, row.grad_accum, row.effective_tokens, row.expert_utilisation_percent, row.load_balance]
    return [
        *first,
        f"{row.tokens_per_second:.0f}",
        str(row.usd),
        *row.machine.split(),
        *map(figure, (*last, row.skip_rate_percent, row.flops_reduction_percent)),
    ]


def test_all_thirteen_rows_have_the_documents_figures():
    expected = [text.split() for text in ROWS.strip().splitlines()]
    assert [line(row) for row in benchmarks.load().rows] == expected


def test_rows_say_what_hardware_and_how_it_was_configured():
    rows = {(r.model, r.arch): r for r in benchmarks.load().rows}
    assert {k: r.hardware for k, r in rows.items() if r.hardware} == {
        ("debug", "dense"): "CPU/Any GPU",
        ("debug200m", "dense"): "RTX 3060 Ti+",
        ("b1", "dense"): "RTX 3090/4090",
        ("b7", "dense"): "A100 80GB",
    }
    assert {k: r.capacity for k, r in rows.items() if r.capacity} == {
        ("debug200m", "mod"): 0.5,
        ("debug200m", "hybrid"): 0.5,
        ("b1", "mod"): 0.6,
        ("b7", "mod"): 0.5,
    }
    assert {k: (r.n_experts, r.top_k) for k, r in rows.items() if r.n_experts} == {
        ("debug", "moe"): (8, 2),
        ("debug200m", "hybrid"): (8, None),
        ("b1", "moe"): (8, 2),
        ("b7", "moe"): (8, 2),
    }
    assert {k: (r.vram_gb_per_gpu, r.gpus) for k, r in rows.items() if r.vram_gb_per_gpu} == {
        ("b7", "moe"): (69.3, 2),
        ("b7", "hybrid"): (67.1, 2),
    }
    assert {k[1]: r.time_days for k, r in rows.items() if r.time_days} == {"dense": 2.2, "moe": 3, "mod": 1.5, "hybrid": 2.4}


def test_the_percentages_beside_the_figures():
    notes = {(r.model, r.arch): dict(r.notes) for r in benchmarks.load().rows}
    assert [
        notes[k]["loss"] for k in (("debug", "moe"), ("debug200m", "mod"), ("b1", "moe"), ("b1", "mod"), ("b7", "moe"), ("b7", "mod"))
    ] == [
        "~3.3% better",
        "+2.4% vs dense",
        "-5.3%",
        "+2.2% vs dense",
        "-8.7%",
        "+3.5% vs dense",
    ]
    assert [notes[k]["tokens_per_second"] for k in (("debug200m", "mod"), ("b1", "mod"), ("b7", "mod"))] == [
        "+44% throughput",
        "+38% throughput",
        "+49% throughput",
    ]
    assert [notes[k]["time"] for k in (("debug200m", "mod"), ("b1", "moe"), ("b1", "mod"), ("b7", "mod"))] == [
        "-31% faster",
        "+31% time",
        "-28% faster",
        "-33% faster",
    ]


def test_minutes_become_hours_exactly():
    rows = {(r.model, r.arch): r for r in benchmarks.load().rows}
    assert rows[("debug", "dense")].hours == 8 / 60
    assert rows[("debug200m", "mod")].hours == 58 / 60
    assert rows[("b7", "dense")].hours == 52


@pytest.mark.parametrize(
    ("model", "figures"),
    [
        ("debug", ("~500K", 500_000, "~4M", 4_000_000, "8x MoE", 50_000_000, 137, 365_000, None, None, None)),
        ("debug200m", ("~200M", 200_000_000, "~6B", 6_000_000_000, "32x MoD", 600_000_000, None, None, 3, 200_000_000, 4_000_000_000)),
        ("b1", ("~1B", 10**9, "~8B", 8 * 10**9, "8x MoE", 20 * 10**9, None, None, 3, 6_700_000_000, 20 * 10**9)),
        ("b7", ("~7B", 7 * 10**9, "~56B", 56 * 10**9, "8x MoE", 140 * 10**9, None, None, 3, 47 * 10**9, 140 * 10**9)),
    ],
)
def test_the_headings_of_the_sizes(model, figures):
    s = benchmarks.load().size(model)
    found = (
        s.active,
        s.active_parameters,
        s.total,
        s.total_parameters,
        s.routing,
        s.tokens,
        s.steps,
        s.tokens_per_batch,
        s.epochs,
        s.unique_tokens,
    )
    assert (*found, s.chinchilla_tokens) == figures


def test_configuration_and_prices():
    b = benchmarks.load()
    assert (b.test.epochs, b.test.seq_len, b.test.beta1, b.test.beta2, b.test.adam_eps) == (3, 2048, 0.9, 0.95, 1e-8)
    assert [(p.hardware, str(p.usd_per_hour)) for p in b.prices] == [
        ("RTX 4090 24GB", "0.34"),
        ("RTX 3090 24GB", "0.28"),
        ("A100 40GB", "1.10"),
        ("A100 80GB", "1.89"),
        ("2x A100 80GB", "3.78"),
    ]
    assert b.usd_per_hour("RTX 4090") == Decimal("0.34")
    assert b.usd_per_hour("any GPU") is None


def test_comparisons():
    b = benchmarks.load()
    assert [(c.model, c.arch, str(c.usd)) for c in b.usd_per_billion_tokens] == [
        ("debug200m", "dense", "0.01"),
        ("debug200m", "mod", "0.01"),
        ("debug200m", "hybrid", "0.01"),
        ("b1", "dense", "0.10"),
        ("b1", "moe", "0.42"),
        ("b1", "mod", "0.07"),
        ("b1", "hybrid", "0.34"),
        ("b7", "dense", "0.70"),
        ("b7", "moe", "1.94"),
        ("b7", "mod", "0.47"),
        ("b7", "hybrid", "1.54"),
    ]
    assert [(w.category, w.model, w.arch, w.loss, w.usd and str(w.usd), w.hours, w.days) for w in b.winners] == [
        ("Best Quality", "b7", "hybrid", 2.06, "215.46", None, None),
        ("Best Budget", "b1", "mod", 3.25, "1.43", None, None),
        ("Fastest Training", "b1", "mod", None, None, 4.2, None),
        ("Best Quality/Cost", "b1", "hybrid", 2.93, "6.71", None, None),
        ("Best All-Around", "b7", "mod", 2.39, "66.15", None, 1.5),
    ]
    tiers = [(t.name, t.model, t.archs, [str(c) for c in t.cost_usd], t.time, t.time_unit, t.loss) for t in b.tiers]
    assert tiers == [
        ("Budget", "b1", ("dense", "mod"), ["1.43", "1.97"], (4, 6), "hours", (3.18, 3.25)),
        ("Mid", "b1", ("hybrid",), ["6.71", "6.71"], (6.1, 6.1), "hours", (2.93, 2.93)),
        ("Production", "b7", ("mod", "hybrid"), ["66.15", "215.46"], (1.5, 2.4), "days", (2.06, 2.39)),
    ]


def test_breakdowns_add_up_to_more_than_their_totals():
    found = [
        (d.model, d.total_hours, d.setup_minutes, d.epoch_hours, d.checkpointing_minutes, d.evaluation_minutes)
        for d in benchmarks.load().breakdowns
    ]
    assert found == [("b1", 5.8, 8, (1.9, 1.8, 1.8), 10, 12), ("b7", 52, 25, (17.8, 16.9, 16.8), 35, 28)]
    assert [round(d.summed_hours, 1) for d in benchmarks.load().breakdowns] == [6.0, 53.0]


def test_advice():
    b = benchmarks.load()
    insights = {i.arch: i for i in b.insights}
    assert set(insights) == {"dense", "moe", "mod", "hybrid"}
    assert insights["moe"].loss_better_percent == (8, 9)
    assert insights["moe"].slower_percent == (20, 40)
    assert insights["mod"].faster_percent == (28, 33)
    assert insights["mod"].loss_worse_percent == (2, 4)
    assert [a.purpose for a in b.recommendations] == ["Learning/Testing", "Experiments", "Production", "Budget Strategy"]
    assert [(o.name, o.hardware, o.model, o.arch, o.hours, str(o.usd), o.loss) for o in b.scenario.options] == [
        ("A", "RTX 4090", "b1", "mod", 4.2, "1.43", 3.25),
        ("B", "A100 40GB", "b1", "hybrid", 6.1, "6.71", 2.93),
        ("C", "A100 80GB", "b7", "mod", 35, "66.15", 2.39),
    ]
    checkpointing = next(t for t in b.memory_tips if t.name == "gradient checkpointing")
    assert (len(b.memory_tips), checkpointing.memory_saved_percent, checkpointing.speed_cost_percent) == (5, (30, 40), 20)
    before, after = b.memory_example.before, b.memory_example.after
    assert (before.seq_len, before.vram_gb, before.fits, after.seq_len, after.checkpointing, after.vram_gb) == (
        2048,
        52.8,
        False,
        1536,
        True,
        38.2,
    )
    assert [str(u) for u in b.conclusion.b7_moe_hybrid_usd] == ["200", "300"]


def test_figures_of_a_row_are_repeated_alike_through_the_document():
    b = benchmarks.load()
    rows = {(r.model, r.arch): r for r in b.rows}
    for o in (*b.scenario.options, *b.winners):
        row = rows[(o.model, o.arch)]
        assert o.loss in (None, row.loss)
        assert o.usd in (None, row.usd)
        assert o.hours in (None, row.hours)


def test_a_key_that_no_field_takes_is_refused():
    with pytest.raises(KeyError, match="colour"):
        benchmarks._build(benchmarks.Winner, {"category": "x", "model": "b1", "arch": "mod", "colour": "red"})

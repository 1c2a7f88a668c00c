"""A user's table of claims: figures as people write them, other names of columns, and what is refused."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.api import claim_tables
from lumina_cloud.api.auditing import audit
from lumina_cloud.core.errors import UsageError

CLEAN = """model,arch,tokens,tokens/s,hours,cost,price,GPU,active,total,VRAM GB,loss,ppl,micro_batch,grad_accum,global batch,mood
b1,dense,20B,"12,000",463 h,$157.42,$0.34/h,RTX 4090,1B,1B,18.0,3.18,24.1,4,64,524288,fine
b1,MoE,20B,9000,25.7 days,$2331,3.78,2x A100 80GB,1B,3B,60,3.01,20.3,2,64,524288,
"""


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_figures_are_taken_as_people_write_them(tmp_path):
    claims, ignored = claim_tables.read(written(tmp_path, CLEAN))
    dense, moe = claims.rows
    assert ignored == ("mood",)
    assert (dense.tokens, dense.tokens_per_second, dense.hours) == (20e9, 12_000, 463)
    assert (dense.usd, dense.usd_per_hour) == (Decimal("157.42"), Decimal("0.34"))
    assert (moe.row, moe.gpus, moe.gpu) == ("b1/moe", 2, "A100 80GB")
    assert moe.hours == pytest.approx(25.7 * 24)


def test_a_clean_table_gives_no_finding(tmp_path):
    assert audit(written(tmp_path, CLEAN)).findings == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("463 h", "46.3 h", "time"),
        ("$157.42", "$15.74", "cost"),
        ("18.0", "5", "memory"),
        ("24.1", "12", "ppl"),
        ("1B,3B", "1B,8B", "experts"),
        ("4,64,", "4,32,", "batch"),
    ],
)
def test_a_planted_error_is_found(tmp_path, old, new, rule):
    assert rule in {f.rule for f in audit(written(tmp_path, CLEAN.replace(old, new))).findings}


@pytest.mark.parametrize(("batch", "said"), [("365K", "364,544 rounds to it"), ("101.1k", "however it was rounded"), ("365100", "however")])
def test_a_batch_says_whether_rounding_explains_it(tmp_path, batch, said):
    (found,) = audit(written(tmp_path, f"model,seq_len,batch_tokens\nb1,2048,{batch}\n")).findings
    assert found.rule == "batch"
    assert said in found.text


@pytest.mark.parametrize(("total", "explained"), [("5.8 h", "all"), ("5.6 h", "0.2"), ("6 h", None)])
def test_a_sum_says_how_much_of_it_rounding_could_explain(tmp_path, total, explained):
    table = f"model,hours,part_hours\nb1,{total},8 min; 1.9 h; 1.8 h; 1.8 h; 10 min; 12 min\n"
    texts = [f.text for f in audit(written(tmp_path, table)).findings]
    assert [f"could explain {explained}" in text for text in texts] == ([] if explained is None else [True])


def test_what_could_not_be_checked_is_said_of_each_row(tmp_path):
    table = "gpu,tokens_per_second,active,batch_tokens,winner\nRTX 9999,1e9,1B,365100,\n4090,10,1B,,overall\n"
    document = audit(written(tmp_path, table))
    assert document.findings == []
    assert document.notes == [
        'row 1: GPU "RTX 9999" is not known: its speed is not checked',
        "row 1: no sequence length is stated: its batch is not checked",
        'row 2: best in "overall" does not say by which figure: it is not checked',
    ]


def test_a_capacity_may_be_a_percentage(tmp_path):
    claims, _ = claim_tables.read(written(tmp_path, "arch,capacity\nmod,50 %\nmod,0.5\n"))
    assert [c.capacity for c in claims.rows] == [0.5, 0.5]


def test_cells_that_are_empty_beyond_the_header_are_none(tmp_path):
    assert audit(written(tmp_path, "model,hours\nb1,2,,\n")).rows == 1


def test_toml_has_the_same_columns_and_breakdowns(tmp_path):
    text = """
[[rows]]
model = "tiny"
arch = "dense"
tokens = 1_000_000
tokens_per_second = 1000
hours = 2.0

[[breakdowns]]
row = "tiny/dense"
total_hours = 2.0
part_hours = [1.0, 0.5]
"""
    found = audit(written(tmp_path, text, "table.toml")).findings
    assert [(f.row, f.rule) for f in found] == [("tiny/dense", "time"), ("breakdown/tiny/dense", "sum")]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "t.csv", "no row"),
        ("a,b\n1,2\n", "t.csv", "no row with a column that is known"),
        ("model,hours\nb1,soon\n", "t.csv", "soon"),
        ("model,loss\nb1,-3\n", "t.csv", "-3"),
        ("model,loss\nb1,nan\n", "t.csv", "nan"),
        ("model,usd\nb1,cheap\n", "t.csv", "cheap"),
        ("model,gpus\nb1,1.5\n", "t.csv", "1.5"),
        ("model,winner\nb1,beauty\n", "t.csv", "beauty"),
        ("model,capacity\nb1,50\n", "t.csv", "50"),
        ("price,usd_per_hour\n1,2\n", "t.csv", "'price' and 'usd_per_hour' both mean usd_per_hour"),
        ("hours,hours\n1,2\n", "t.csv", "both mean hours"),
        ("[[rows]]\nprice = 1\nusd_per_hour = 2\n", "t.toml", "both mean usd_per_hour"),
        ("model,tokens_s,loss\nb1,96,000,3.1\n", "t.csv", "row 1 has 4 cells, the header 3"),
        ("model;hours\nb1;2\n", "t.csv", "semicolons (';')"),
        ("hours;x\n2;3\n", "t.csv", "semicolons"),
        ("model\thours\nb1\t2\n", "t.csv", "tabs"),
        ("rows = 3\n", "t.toml", "no list of tables"),
        ("[[rows\n", "t.toml", "TOML"),
        ("x = 1\n", "t.toml", "[[rows]]"),
        ("[[breakdowns]]\ntotal_hours = 2\n", "t.toml", "part_hours"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, text, name, said):
    with pytest.raises(UsageError) as caught:
        audit(written(tmp_path, text, name))
    assert said in caught.value.message + caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        audit(tmp_path / "missing.csv")


@given(st.binary(max_size=300), st.sampled_from(["t.csv", "t.toml"]))
def test_any_bytes_give_an_answer_or_a_clear_error(tmp_path_factory, raw, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(raw)
    try:
        document = audit(path)
    except UsageError as error:
        assert error.message
    else:
        json.loads(document.model_dump_json())

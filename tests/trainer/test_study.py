"""The study's page says what was measured, ranks nothing below the seeds' spread, and says where it disagrees."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import study, study_page
from trainer.config import count_flops, count_parameters

three = st.lists(st.floats(1, 6), min_size=3, max_size=3)


@given(three, three)
def test_what_is_within_the_seeds_spread_is_not_ranked(one, other):
    told = study_page.is_beyond_spread(one, other)
    assert told == study_page.is_beyond_spread(other, one)
    words = study_page.order({"a": one, "b": other})
    assert (" < " in words) == told and (" ≈ " in words) != told


def test_the_variants_are_about_a_million_parameters_and_beside_the_dense_one():
    counted = {v.name: count_parameters(v.model()) for v in study.VARIANTS}
    assert [v.name for v in study.VARIANTS] == ["dense", "moe", "mod, paper", "mod, published", "hybrid, paper", "hybrid, published"]
    assert 0.9e6 < counted["dense"].total < 1.5e6
    flops = {v.name: count_flops(v.model(), study.SEQ_LEN).train for v in study.VARIANTS}
    assert flops["moe"] == pytest.approx(flops["dense"], rel=0.05)
    assert flops["mod, paper"] < 0.8 * flops["dense"] and flops["mod, published"] < 0.8 * flops["dense"]


def test_a_tiny_study_from_end_to_end_and_goes_on_where_it_was(tmp_path, monkeypatch):
    """In this process, so that the constants can be small: training, curves, page and plots are the real ones."""

    class Here:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, work, *arguments):
            from concurrent.futures import Future

            done = Future()
            done.set_result(work(*arguments))
            return done

    small = {"TOKENS": 20 * 4 * 16, "BATCH": 4, "SEQ_LEN": 16, "LEARNING_RATES": (1e-3, 2e-3), "SEEDS": (0, 1), "EVALUATION_WINDOWS": 4}
    for name, value in small.items():
        monkeypatch.setattr(study, name, value)
        if hasattr(study_page, name):
            monkeypatch.setattr(study_page, name, value)
    model = study.Variant.model
    monkeypatch.setattr(study.Variant, "model", lambda self: replace(model(self), d_model=32, d_ff=64, d_expert=32, n_layers=2))
    monkeypatch.setattr(study, "EVALUATIONS", 2)
    monkeypatch.setattr(study, "ProcessPoolExecutor", Here)
    said = []
    found = study.study(tmp_path / "runs", said.append)
    assert len(said) >= 6 * 2 and set(found["runs"]) == {"tokens", "flops", "seconds"}
    for name, runs in found["runs"]["flops"].items():
        wanted = small["TOKENS"] * found["flops_per_token"]["dense"]
        assert runs[0]["curve"][-1]["flops"] == pytest.approx(wanted, rel=0.06), name
    study_page.write(found, tmp_path / "docs" / "study.md")
    page = (tmp_path / "docs" / "study.md").read_text()
    assert all(f"| {v.name} |" in page for v in study.VARIANTS) and "Disagreements beyond the seeds' spread: " in page
    assert (tmp_path / "docs" / "study-seconds.svg").read_text().count("<polyline") == 6
    told = len(said)
    again = study.study(tmp_path / "runs", said.append)
    assert len(said) == told and again["runs"]["tokens"] == found["runs"]["tokens"]

"""`lumina status --watch`: each move of a run is told, what had ended is not, and it is over when nothing goes on; 80 columns do."""

import io
import json
import re
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lumina_cloud.api import views, watching
from lumina_cloud.api.documents import of_runs
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.cli import watching as live
from lumina_cloud.cli.sparks import BARS, bars, sparkline
from lumina_cloud.ledger import MetricRecord
from tests.ledger.conftest import NOW, a_charge, a_rental, a_run

PROGRESS = {"step": 5, "steps": 10, "tokens": 50_000, "tokens_per_second": 900.0, "loss": 4.5}


@pytest.fixture
def lumina(tmp_path, monkeypatch):
    """A run that trains, and one that ended long ago."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    with Lumina(settles=False) as opened:
        with opened.ledger.transaction() as tx:
            tx.add_run(a_run("old", state="succeeded", ended_at=NOW))
            tx.add_run(a_run("now", state="training", started_at=NOW, progress=PROGRESS))
            tx.add_rental(a_rental("now", state="ended", ended_at=NOW + timedelta(hours=1)))
            tx.put_charge(a_charge("now", usd="0.02", until=NOW + timedelta(hours=1)))
            tx.put_metrics("now", [MetricRecord("now", n, {"loss": 6.0 - n / 4}) for n in range(1, 6)])
        yield opened


def steps_of(lumina):
    """Sleeps by letting the run take its next step; after two it ends."""
    later = iter(
        ({"progress": {**PROGRESS, "step": 6, "loss": 4.4}}, {}, {"state": "succeeded", "ended_at": NOW, "result": {"loss_last": 4.4}})
    )

    def sleep(_seconds):
        with lumina.ledger.transaction() as tx:
            tx.update_run("now", **next(later))

    return sleep


def test_elsewhere_each_step_is_told_once(lumina, capsys):
    live.watch(lumina, as_json=False, sleep=steps_of(lumina))
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "now  training  step 5/10  loss 4.500  $0.02 of $0.10",
        "now  training  step 6/10  loss 4.400  $0.02 of $0.10",
        "now  succeeded  step 6/10  loss 4.400  $0.02 of $0.10",
    ]
    assert err.splitlines()[-1].startswith("next: lumina ")


def test_with_json_each_line_is_a_status(lumina, capsys):
    live.watch(lumina, as_json=True, sleep=steps_of(lumina))
    out, err = capsys.readouterr()
    assert err == ""
    states = [[run["state"] for run in json.loads(line)["runs"] if run["run"] == "now"] for line in out.splitlines()]
    assert states[-1] == ["succeeded"]
    assert 3 <= len(states) <= 4  # an estimated end may move while nothing else does
    for text in out.splitlines():
        of_runs.StatusDocument.model_validate_json(text)


def test_leaving_it_ends_no_run(lumina, capsys):
    def sleep(_seconds):
        raise KeyboardInterrupt

    live.watch(lumina, as_json=False, sleep=sleep)
    assert "go on" in capsys.readouterr().err
    assert lumina.ledger.run("now").state == "training"


@pytest.mark.parametrize("width", [80, 116, 150, 200])
def test_the_screen_fits_and_has_both_curves(lumina, width):
    with lumina.ledger.transaction() as tx:
        tx.add_run(a_run("debug200m-hybrid-p3xa", state="succeeded", provider="runpod", gpu="A100-80GB-PCIe", ended_at=NOW))
    document = lumina.status()
    runs = watching.shown(document)
    assert [run.run for run in runs] == ["now", "debug200m-hybrid-p3xa", "old"]
    pulses = lumina.pulses([run.run for run in runs])
    assert pulses["now"].losses == (5.75, 5.5, 5.25, 5.0, 4.75)
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(live.screen(document, runs, pulses, lumina.clock.now(), width=width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.lstrip().startswith("now"))
    assert "█▆▅▃▁" in row
    assert sum(row.count(bar) for bar in BARS) > 5, "spending has a curve too"
    assert ("50%" in row) == (width > 80)
    assert re.search(r"debug200m-hybrid-p3xa +succeeded", text)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300), st.decimals(0, 50, places=6)), min_size=1, max_size=6), st.integers(1, 40)
)
def test_spending_grows_to_what_the_ledger_says(parts, points):
    charges = [
        a_charge(n=n, usd=usd, since=NOW + timedelta(minutes=start), until=NOW + timedelta(minutes=start + length))
        for n, (start, length, usd) in enumerate(parts)
    ]
    now = NOW + timedelta(days=2)
    made = watching.spent_over_time(charges, [], now, points)
    assert made[-1] == views.running_cost(charges, [], now) == sum((c.usd for c in charges), Decimal(0))
    assert all(a <= b + Decimal("1e-12") for a, b in pairwise(made))
    assert watching.spent_over_time([], [], now) == []


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(0, 60))
def test_a_sparkline_fits_and_ends_with_the_newest(values, width):
    made = sparkline(values, width)
    assert len(made) == min(width, len(values))
    assert set(made) <= set(BARS)
    if made and values[-1] == max(values) > min(values) and width >= len(values):
        assert made[-1] == "█"


def test_a_flat_curve_is_low_and_a_value_beyond_the_scale_stays_on_it():
    assert bars([3.0, 3.0], 3.0, 3.0) == "▁▁"
    assert bars([-9.0, 9.0], 0.0, 1.0) == "▁█"

"""`lumina plan --budget`: on a terminal, as comma-separated values, as a file and as a chart."""

import csv
import io
import shlex
import tomllib
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from lumina_cloud.api import sharing
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.cli.app import app

GOAL = "plan --budget 50 --deadline 48h --arch mod --provider vastai --gpu RTX4090"


def typed(tmp_path, monkeypatch, words, code=0, **environment):
    for name, value in {"LUMINA_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "NO_COLOR": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(words) if isinstance(words, str) else words)
    assert done.exit_code == code, done.output
    return done


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("columns", [80, 140])
def test_the_answers_promise_their_high_ends(tmp_path, monkeypatch, columns):
    said = typed(tmp_path, monkeypatch, GOAL, COLUMNS=str(columns)).stdout
    assert max(len(line) for line in said.splitlines() if not line.startswith("next: ")) <= columns
    table = said[said.index("the best of") : said.index("take ")]
    assert table.count("at most") == 2
    assert "$50.00" in table or "$49." in table


def test_its_command_is_printed_whole_and_plans_the_answer(tmp_path, monkeypatch):
    said = typed(tmp_path, monkeypatch, f"{GOAL} --global-batch 512k --seed 3", COLUMNS="80").stdout
    command = next(line for line in said.splitlines() if line.startswith("next: lumina plan "))
    words = shlex.split(command.removeprefix("next: lumina ").split("    ")[0])
    assert words[words.index("--global-batch") :][:4] == ["--global-batch", "512k", "--seed", "3"]
    (row,) = (r for r in rows_of(typed(tmp_path, monkeypatch, [*words, "--csv"]).stdout) if r["fits"] == "True")
    assert Decimal(row["usd_high"]) <= 50
    assert float(row["hours_high"]) <= 48


def test_answers_are_one_row_each(tmp_path, monkeypatch):
    rows = rows_of(typed(tmp_path, monkeypatch, f"{GOAL} --csv").stdout)
    assert len(rows) > 1
    assert all(Decimal(r["usd_high"]) <= 50 and float(r["hours_high"]) <= 48 for r in rows)
    assert all(r["type"].startswith("lumina plan ") and f"--tokens {r['tokens']} " in r["type"] for r in rows)
    none = typed(tmp_path, monkeypatch, "plan --target-loss 1.2 --csv").stdout
    assert none.startswith("model,arch,settings,")
    assert rows_of(none) == []


def test_the_best_answer_is_a_file_that_can_be_launched_and_a_chart(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    typed(tmp_path, monkeypatch, f"{GOAL} --out plan.toml --plot plan.svg")
    assert (tmp_path / "plan.svg").stat().st_size > 1000
    shared = sharing.load(tmp_path / "plan.toml")
    promised = tomllib.loads((tmp_path / "plan.toml").read_text())["promised"]
    with Lumina() as lumina:
        row = lumina.plan(shared.request, shared.wanted).plan.recommendation.row
    assert Decimal(promised["usd"]["high"]) <= 50
    assert f"{row.estimate.usd.high:.6f}" == f"{Decimal(promised['usd']['high']):.6f}"
    assert "nothing to write" in typed(tmp_path, monkeypatch, "plan --target-loss 1.2 --out no.toml", code=2).output


def test_what_only_a_plan_of_one_model_knows_says_which_command_takes_it(tmp_path, monkeypatch):
    said = " ".join(typed(tmp_path, monkeypatch, f"{GOAL} --explain", code=2, COLUMNS="300").output.split())
    assert "lumina plan MODEL --arch ... --tokens N, takes --explain" in said

"""`lumina audit` as it is typed: words, tables for other programs, exit codes."""

import csv
import io

import pytest
from typer.testing import CliRunner

from lumina_cloud.cli.app import app

WRONG = "model,arch,tokens,tokens_per_second,hours,gpu\nmine,dense,1B,1000,27,4090\n"


@pytest.fixture
def typed(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def typed(text, *words):
        (tmp_path / "mine.csv").write_text(text)
        return CliRunner().invoke(app, ["audit", "mine.csv", *words])

    return typed


def test_findings_as_comma_separated_values(typed):
    done = typed(WRONG, "--csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert list(row) == ["row", "rule", "claimed", "possible", "ratio", "text"]
    assert (done.exit_code, row["row"], row["rule"], row["claimed"]) == (1, "mine/dense", "time", "27.0")
    assert "no active parameters" in done.stderr


def test_no_finding_is_a_header_and_exit_code_0(typed):
    done = typed(WRONG.replace("27", "278"), "--csv")
    assert (done.exit_code, done.stdout) == (0, "row,rule,claimed,possible,ratio,text\n")


def test_one_table_for_one_program(typed):
    assert typed(WRONG, "--csv", "--json").exit_code == 2


def test_one_finding_on_one_row_of_a_table_that_nobody_published(typed):
    done = typed(WRONG)
    assert done.stdout.startswith("1 finding in mine.csv, 1 row\n")
    assert "published" not in done.stdout


def test_nothing_wrong_does_not_speak_for_what_was_not_checked(typed):
    done = typed(WRONG.replace("27", "278").replace("4090", "RTX 9999"))
    assert done.exit_code == 0
    assert done.stdout.startswith("nothing wrong was found in what could be checked: mine.csv, 1 row\n")
    assert 'mine/dense: GPU "RTX 9999" is not known: its speed is not checked' in done.stdout

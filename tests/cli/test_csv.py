"""Comma-separated values: one form at a time, and a header always."""

import csv

import pytest
from typer.testing import CliRunner

from lumina_cloud.cli.app import app


@pytest.mark.parametrize("words", ["plan debug", "plan --budget 5", "accuracy", "compare", "compare last", "costs"])
def test_two_forms_at_once_are_refused(tmp_path, monkeypatch, words):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, [*words.split(), "--csv", "--json"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "--csv and --json say two things" in done.stderr


def test_a_table_without_rows_has_its_header(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["accuracy", "--csv"])
    (header,) = csv.reader(done.stdout.splitlines())
    assert {"run", "figure", "predicted", "actual"} <= set(header)

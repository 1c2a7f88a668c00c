"""What verbs print with `--json` is what docs/reference says."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lumina_cloud.api.documents import SCHEMA_VERSION, printed
from lumina_cloud.cli.app import app
from lumina_cloud.core import errors
from tests import documents

PAGES = Path(__file__).parents[2] / "docs" / "reference"

LIGHT = [
    *(["plan", "b7", "--arch", "mod", "--gpu", "4090"], ["prices", "4090"], ["audit"], ["status"]),
    *(["costs"], ["budget"], ["budget", "50"], ["accuracy"], ["prune"], ["config"], ["ledger", "backup"], ["ledger", "verify"]),
    *(["data", "check", __file__], ["report"], ["sandbox", "down"], ["sandbox", "faults"]),
]
"""Verbs that need no rented machine. Those on runs and offers are held by tests/e2e, whose `Cli` checks each document."""


def json_verbs(group, words=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from json_verbs(command, (*words, name))
        elif any("--json" in option.opts for option in command.params):
            yield " ".join((*words, name))


def test_each_verb_with_json_has_its_documents():
    assert set(json_verbs(typer.main.get_command(app))) == set(printed.PRINTED)


def all_verbs(group, words=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_verbs(command, (*words, name))
        else:
            yield " ".join((*words, name))


def test_the_readme_names_each_verb_that_has_no_json():
    verbs = typer.main.get_command(app)
    without = set(all_verbs(verbs)) - set(json_verbs(verbs))
    said = (PAGES.parents[1] / "README.md").read_text().split("With `--json`")[1].split("Exit codes")[0]
    assert set(re.findall(r"`([a-z ]+)`", said)) == without


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_a_verb_prints_its_document(words, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.stdout, done.stderr
    documents.check(words, done.stdout)


@pytest.mark.parametrize("document", printed.all_documents(), ids=lambda document: document.__name__)
def test_the_page_has_each_key_of_each_document(document):
    """Whether the whole is what `make docs` writes is tests/docs/test_generated.py's matter; here a reader finds the keys."""
    schema = json.loads((PAGES / "json" / f"{document.__name__}.json").read_text())
    assert schema["$id"] == f"lumina:{document.__name__}:{SCHEMA_VERSION}"
    assert list(schema["properties"]) == list(document.model_fields)
    section = (PAGES / "json.md").read_text().split(f"\n## {document.__name__}\n")[1].split("\n## ")[0]
    assert all(f"| `{key}` |" in section for key in document.model_fields)


def test_an_error_is_its_document(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["plan", "debgu", "--json"])
    assert done.exit_code == errors.UsageError.exit_code
    assert printed.ERROR.model_validate_json(done.stderr).model_dump() == json.loads(done.stderr)


def test_each_error_has_a_documented_exit_code():
    """The kinds are one closed list: a kind of error always ends with the same code."""

    def below(kind):
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in below(one))]

    codes = {}
    for kind in below(errors.LuminaError):
        assert kind.exit_code in errors.EXIT_CODES
        assert codes.setdefault(kind.kind, kind.exit_code) == kind.exit_code
    rows = [line.split(" | ") for line in (PAGES / "exit-codes.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert {int(row[0].strip("| ")): row[1] for row in rows} == errors.EXIT_CODES

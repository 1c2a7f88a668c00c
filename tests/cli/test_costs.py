"""What `lumina costs` says of where its figures come from."""

import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.cli.app import app
from tests.ledger.conftest import a_charge, a_rental, a_run

CHARGES = (replace(a_charge("r", usd="2.50", n=1), basis="billed"), a_charge("r", usd="0.75", n=2))


def said(home, monkeypatch, *charges):
    monkeypatch.setenv("LUMINA_HOME", str(home))
    with Lumina() as lumina, lumina.ledger.transaction() as tx:
        tx.add_run(a_run("r"))
        tx.add_rental(a_rental("r"))
        for charge in charges:
            tx.put_charge(charge)
    done = CliRunner().invoke(app, ["costs"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.pain(7)
def test_what_is_on_a_bill_and_what_was_reckoned_here_is_told_apart(tmp_path, monkeypatch):
    output = said(tmp_path, monkeypatch, *CHARGES)
    assert re.search(r"\$3\.25 spent in all: \$2\.50 as billed, \$0\.75 as metered here", output), output


def test_where_nothing_was_spent_nothing_is_told_apart(tmp_path, monkeypatch):
    assert "billed" not in said(tmp_path, monkeypatch)

"""Why a run ended: the reason of the closed list, and what its provider or its machine said, for whoever asks later."""

import pytest

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.runs.states import REASONS
from tests.ledger.conftest import a_run


@pytest.fixture
def lumina(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    with Lumina() as opened:
        yield opened


def ended(lumina, *ends, reason):
    """Keep a run that has ended for a reason, after some ends of its work, each a reason and what was said."""
    run = a_run("r", state="failed", reason=reason)
    with lumina.ledger.transaction() as tx:
        tx.add_run(run)
        for why, said in ends:
            tx.add_event("run.work_ended", run_id="r", reason=why, detail=said)
    return run


@pytest.mark.pain(14)
def test_the_providers_own_words_are_told_to_whoever_asks_later(lumina):
    run = ended(lumina, ("machine_lost", "Error: host \x1b[31moffline\nsince noon"), reason="machine_lost")
    for told in (lumina.results("r").reason_text, lumina.why_ended(run)):
        assert "the machine went away during the run (Error: host offline" in told
        assert "\x1b" not in told and "\n" not in told


def test_what_was_said_of_another_end_is_not(lumina):
    run = ended(lumina, ("machine_lost", "host offline"), ("finished", "exited with 0"), reason="result_missing")
    assert lumina.why_ended(run).startswith(f"{REASONS['result_missing'][1]};")

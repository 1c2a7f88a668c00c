"""A form that is sent twice rents once, whatever failed between: the ledger has the intent."""

from decimal import Decimal

import pytest

from lumina_cloud.api import background
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.core.errors import LuminaError
from lumina_cloud.web.launching import Wanted, launch

WANTED = Wanted("debug", "dense", "100k", "local", "cpu", 1, False)
CAP = Decimal(1)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LUMINA_SANDBOX", raising=False)
    return tmp_path / "home"


def runs():
    with Lumina(settles=False) as lumina:
        return [run.run_id for run in lumina.ledger.runs()]


def test_sent_again_after_its_process_could_not_be_started_it_is_the_same_run(monkeypatch):
    def broken(_settings, _run):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(background, "start", broken)
    with pytest.raises(LuminaError) as refused:
        launch(WANTED, CAP, "intent-1")
    (run,) = runs()
    assert run in refused.value.message
    assert "second run" in refused.value.hint
    left = []
    monkeypatch.setattr(background, "start", lambda _settings, name: left.append(name))
    # The pages may have been started anew meanwhile: nothing but the ledger remembers.
    assert launch(WANTED, CAP, "intent-1") == run
    assert (left, runs()) == ([run], [run])
    assert launch(WANTED, CAP, "intent-2") != run
    assert len(runs()) == 2


def test_two_at_once_are_one(monkeypatch):
    """Both had looked, and found nothing, before either wrote."""
    monkeypatch.setattr(background, "start", lambda _settings, _name: None)
    monkeypatch.setattr(Lumina, "begun_for", lambda _self, _intent: None)
    assert launch(WANTED, CAP, "intent") == launch(WANTED, CAP, "intent")
    assert len(runs()) == 1

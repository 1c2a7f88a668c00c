"""What a reconciliation says where a cloud cannot be asked."""

import pytest

from lumina_cloud.api import reconciling
from lumina_cloud.api.lumina import Lumina
from tests.ledger.conftest import a_rental, a_run


@pytest.mark.pain(3)
def test_a_cloud_whose_key_is_gone_while_a_machine_may_be_rented_there_is_named(tmp_path, monkeypatch):
    for name, value in {"LUMINA_HOME": tmp_path / "home", "HOME": tmp_path, "XDG_CONFIG_HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    with Lumina() as lumina:
        assert reconciling.said(lumina.reconcile(reconciling.Wanted(dry_run=True))) == []
        with lumina.ledger.transaction() as tx:
            tx.add_run(a_run("r", provider="vastai", state="failed", reason="machine_lost"))
            tx.add_rental(a_rental("r", provider="vastai", state="terminating", instance_id="1"))
        (said,) = reconciling.said(lumina.reconcile(reconciling.Wanted(dry_run=True)))
        assert said.startswith("vastai could not be asked what is rented there")
        assert [r.state for r in lumina.ledger.open_rentals()] == ["terminating"], "what nobody could ask about is not taken for gone"

"""A run's log can be asked for whatever its machine does at that moment."""

import pytest

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.core.errors import NotFound, Unreachable
from tests.ledger.conftest import a_rental, a_run


class Silent:
    """A provider that names no machine."""

    name = "vastai"

    def __init__(self, error):
        self.error = error

    def get(self, instance_id):
        raise self.error


@pytest.mark.parametrize("error", [NotFound("no such instance"), Unreachable("it has not told its host key yet", "it boots")])
def test_a_machine_that_does_not_answer_leaves_what_is_home(tmp_path, monkeypatch, error):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "log.txt").write_text("of an earlier machine\n")
    run = a_run("r", state="provisioning", provider="vastai", folder=str(tmp_path / "r"))
    with Lumina(settles=False) as lumina:
        with lumina.ledger.transaction() as tx:
            tx.add_run(run)
            tx.add_rental(a_rental("r", provider="vastai", instance_id="1", state="booting"))
        lumina._providers["vastai"] = Silent(error)
        assert lumina.log_chunk(run, 0) == b"of an earlier machine\n"
        assert lumina.log_chunk(run, 22) == b""

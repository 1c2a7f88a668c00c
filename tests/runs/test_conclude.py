"""What a run is called at its end: it has not finished before all that it made is here."""

import json
from types import SimpleNamespace

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import BadReply, NotFound
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import conclude
from tests.ledger.conftest import a_rental, a_run

RESULT = {"tokens": 1024, "loss_first": 6.0, "loss_last": 2.0, "perplexity": 7.4, "seconds": 3.0, "device": "cpu"}


@pytest.mark.parametrize(
    ("told", "result", "reason"),
    [
        (["run.work_ended", "run.fetched"], RESULT, "finished"),
        (["run.work_ended", "run.fetched"], None, "result_missing"),
        (["run.work_ended"], RESULT, "machine_lost"),
        (["run.work_ended"], None, "machine_lost"),
        (["run.work_ended", "run.fetch_failed"], RESULT, "result_missing"),
        (["run.work_ended", "run.fetch_failed", "run.fetched"], RESULT, "finished"),
        (["run.work_ended", "run.fetched", "run.resumed", "run.work_ended"], RESULT, "machine_lost"),
    ],
)
def test_a_run_finished_when_all_of_it_came_home(tmp_path, told, result, reason):
    ledger = Ledger.open(tmp_path, SystemClock())
    run = a_run("r", state="finishing", reason="finished", folder=str(tmp_path))
    if result is not None:
        (tmp_path / "result.json").write_text(json.dumps(result))
    with ledger.transaction() as tx:
        tx.add_run(run)
        for kind in told:
            tx.add_event(kind, run_id="r")
    assert conclude.verdict(ledger, run)[1] == reason
    ledger.close()


class Unlisted:
    """A cloud whose list cannot be read, and that ends what it is told by its id."""

    def __init__(self):
        self.ended = []

    def find(self, _tag):
        raise BadReply("the list makes no sense")

    def terminate(self, instance_id):
        self.ended.append(instance_id)

    def get(self, instance_id):
        raise NotFound(f"no instance {instance_id}")


def test_a_machine_is_ended_while_its_providers_list_cannot_be_read(tmp_path):
    ledger, cloud = Ledger.open(tmp_path, SystemClock()), Unlisted()
    run = a_run("r", provider="vastai", state="finishing", reason="stopped_by_user", folder=str(tmp_path))
    rental = a_rental("r", provider="vastai", state="ready", instance_id="i-1", ended_at=None)
    with ledger.transaction() as tx:
        tx.add_run(run)
        tx.add_rental(rental)
    context = SimpleNamespace(
        ledger=ledger, clock=SystemClock(), connect=lambda _name: cloud, reporter=SimpleNamespace(said=lambda *_: None)
    )
    with pytest.raises(BadReply):
        conclude.conclude(context, run, rental, None, None)
    assert cloud.ended == ["i-1"]
    assert ledger.rentals("r")[0].state == "terminating", "others of its tag may be there yet: it is asked again"
    ledger.close()

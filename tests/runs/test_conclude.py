"""What a run is called at its end: it has not finished before all that it made is here."""

import json

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import conclude
from tests.ledger.conftest import a_run

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

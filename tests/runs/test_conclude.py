"""What a run is called at its end: it has not finished before all that it made is here."""

import json
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from lumina_cloud.api import views
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import BadReply, NotFound, ProviderDown, RateLimited, StillTerminating
from lumina_cloud.ledger import Ledger
from lumina_cloud.runs import conclude
from lumina_cloud.runs.context import Silent
from providers.contract import Instance
from tests.ledger.conftest import NOW, a_rental, a_run
from tests.runs.test_extending import Still

RESULT = {"tokens": 1024, "loss_first": 6.0, "loss_last": 2.0, "perplexity": 7.4, "seconds": 3.0, "device": "cpu"}


@pytest.mark.pain(13)
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


class Moving(Still):
    """A clock that moves when somebody waits."""

    seconds = 0.0

    def now(self):
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


class Stubborn:
    """A provider whose machine goes on however often its end is asked for, and says so; or refuses, or answers nonsense."""

    name = "lambda"
    asked = 0
    ended = False
    fault = StillTerminating("it still runs")

    def find(self, tag):
        return [self._machine(tag)]

    def get(self, instance_id):
        return self._machine("lumina-r-1")

    def terminate(self, instance_id):
        self.asked += 1
        if not self.ended:
            raise self.fault

    def _machine(self, tag):
        return Instance("i-1", tag, "ended" if self.ended else "running", Decimal(1), NOW, None, None)


@pytest.mark.pain(3)
@pytest.mark.parametrize("fault", [StillTerminating("it still runs"), RateLimited("too often"), ProviderDown("500"), BadReply("a page")])
def test_an_end_that_is_refused_is_tried_again_by_each_command_without_limit_and_counts_as_rented(tmp_path, fault):
    clock, provider = Moving(), Stubborn()
    provider.fault = fault
    ledger = Ledger.open(tmp_path, clock)
    run = a_run("r", state="finishing", reason="stopped_by_user", provider="lambda", folder=str(tmp_path), usd_cap=Decimal(50))
    with ledger.transaction() as tx:
        tx.add_run(run)
        tx.add_rental(a_rental("r", 1, provider="lambda", instance_id="i-1", state="ready", intended_at=NOW))
    context = SimpleNamespace(ledger=ledger, clock=clock, connect=lambda _name: provider, reporter=Silent(), home=tmp_path)
    cost = Decimal(0)
    for tries in range(1, 31):
        asked = provider.asked
        with pytest.raises(type(fault)):
            conclude.conclude(context, run, ledger.rentals("r")[0], provider.get("i-1"), None)
        assert provider.asked > asked, f"the {tries}th command asked no more"
        (rental,) = ledger.open_rentals()
        assert rental.state == "terminating"
        assert ledger.run("r").state == "finishing"
        clock.sleep(3600)
        cost, before = views.running_cost(ledger.charges("r"), [rental], clock.now()), cost
        assert cost > before, "what may be billed is counted"
    provider.ended = True
    conclude.conclude(context, run, ledger.rentals("r")[0], provider.get("i-1"), None)
    assert not ledger.open_rentals()
    ledger.close()

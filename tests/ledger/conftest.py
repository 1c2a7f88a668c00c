"""A ledger in an empty folder, on both databases, and records to put into it."""

import shutil
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import ChargeRecord, Ledger, RentalRecord, RunRecord
from tests import postgres

NOW = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)


@pytest.fixture(scope="session")
def postgresql():
    """Databases on a real PostgreSQL server of this session; skipped by name where the machine has none."""
    why_not = postgres.available()
    if why_not:
        pytest.skip(why_not)
    with postgres.server() as folder:
        databases = postgres.Databases(folder)
        template = databases.new()
        Ledger.open(folder, SystemClock(), template).close()
        databases.migrated = template.split("/")[3].split("?")[0]
        yield databases


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """The address of an empty, migrated ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shelf' / 'ledger.db'}"
    databases = request.getfixturevalue("postgresql")
    return databases.new(template=databases.migrated)


@pytest.fixture
def ledger(address, tmp_path):
    """An empty ledger, once on each database."""
    opened = Ledger.open(tmp_path / "home", SystemClock(), address)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def another_ledger(tmp_path_factory):
    """Opens an empty ledger in a folder of its own whenever it is called: the tables are made once and copied."""
    made = tmp_path_factory.mktemp("tables") / "home"
    Ledger.open(made, SystemClock()).close()

    def another():
        home = tmp_path_factory.mktemp("ledger") / "home"
        shutil.copytree(made, home)
        return Ledger.open(home, SystemClock())

    return another


@pytest.fixture
def file_ledger(tmp_path):
    """An empty ledger in a file."""
    opened = Ledger.open(tmp_path / "home", SystemClock())
    yield opened
    opened.close()


def a_run(run_id="debug-dense-1", **changes):
    values = {
        "run_id": run_id,
        "created_at": NOW,
        "model": "debug",
        "arch": "dense",
        "state": "planned",
        "reason": "",
        "config_json": "{}",
        "plan_id": None,
        "provider": "local",
        "gpu": "cpu",
        "count": 1,
        "usd_per_hour": Decimal("0.05"),
        "planned": {"usd": {"low": "0.01", "mid": "0.02", "high": "0.03"}},
        "usd_cap": Decimal("0.10"),
        "seconds_cap": 7200.0,
        "data_path": None,
        "folder": "/runs/x",
        "started_at": None,
        "ended_at": None,
        "stop_requested_at": None,
        "progress": {},
        "result": {},
    }
    return RunRecord(**{**values, **changes})


def a_rental(run_id="debug-dense-1", attempt=1, **changes):
    values = {
        "rental_id": f"{run_id}-{attempt}",
        "run_id": run_id,
        "attempt": attempt,
        "tag": f"lumina-{run_id}-{attempt}",
        "provider": "local",
        "gpu": "cpu",
        "count": 1,
        "usd_per_hour": Decimal("0.05"),
        "offer_id": "local",
        "instance_id": None,
        "state": "intended",
        "intended_at": NOW,
        "ready_at": None,
        "ended_at": None,
    }
    return RentalRecord(**{**values, **changes})


def a_charge(run_id="debug-dense-1", usd="0.0017", since=NOW, until=NOW, n=1):
    return ChargeRecord(
        charge_id=f"{run_id}-{n}",
        run_id=run_id,
        rental_id=f"{run_id}-1",
        provider="local",
        usd=Decimal(usd),
        usd_per_hour=Decimal("0.05"),
        since=since,
        until=until,
        basis="metered",
    )


def fill(ledger, run_id="debug-dense-1", **changes):
    with ledger.transaction() as tx:
        tx.add_run(a_run(run_id, **changes))
        tx.add_rental(a_rental(run_id))

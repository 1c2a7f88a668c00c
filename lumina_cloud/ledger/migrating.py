"""Brings a ledger's schema up to date: a backup before, one transaction, and what is derived filled in at its end."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from lumina_cloud.core.edge import edge, sent
from lumina_cloud.ledger import backups, database, derived

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from lumina_cloud.ledger.database import Database


UNSEALED = (None, "0001", "0002")
"""Schemas whose rows have neither seals nor sums yet."""


def migrate(ledger: Database, revision: str | None) -> None:
    """Migrate from `revision`, None for an empty database. All of it is one transaction: a kill leaves the old ledger."""
    if revision is not None:
        backups.before_migration(ledger, revision)
    config = Config()
    config.set_main_option("script_location", "lumina_cloud:ledger/migrations")
    with ledger.writing_by_engine() as connection:
        # Another process may have migrated while this one waited for the lock.
        if MigrationContext.configure(connection).get_current_revision() == database.HEAD:
            return
        _crash_points(connection)
        # alembic commits what it is handed without asking; it is to be one transaction with what follows.
        config.attributes["connection"] = connection
        command.upgrade(config, database.HEAD)
        name = secrets.token_hex(8)
        facts = derived.refresh(connection, name) if revision in UNSEALED else derived.write_facts(connection, name)
        ledger.commit(connection, int(facts["commits"]), facts["ledger"])


def _crash_points(connection: Connection) -> None:
    """Make each statement of a migration an edge, so that a test can kill the process before and after any of them."""
    open_edges: list[Any] = []

    @event.listens_for(connection, "before_cursor_execute")
    def _before(*_args: Any) -> None:
        passing = edge("ledger.migrate")
        passing.__enter__()
        open_edges.append(passing)

    @event.listens_for(connection, "after_cursor_execute")
    def _after(*_args: Any) -> None:
        sent()
        open_edges.pop().__exit__(None, None, None)

"""Runs migrations on the connection that `database` hands in, in one transaction."""

from alembic import context

from lumina_cloud.ledger.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()

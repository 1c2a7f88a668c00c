"""Projects, labels, kinds of charges, the phases of a rental, thinned-out metrics, spending, budgets, notices, sweeps, seals.

Seals and spending are filled in by `lumina_cloud.ledger.derived` after the last step.
"""

import sqlalchemy as sa
from alembic import op

from lumina_cloud.ledger.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEALED = ("plans", "runs", "rentals", "charges", "events", "artifacts", "prices_seen")
KINDS = "'gpu', 'storage', 'traffic', 'other'"
MICROS = (
    *("usd_micros", "training_micros", "boot_micros", "failed_micros", "interrupted_micros", "idle_micros", "storage_micros"),
    *("traffic_micros", "other_micros", "billed_micros", "microseconds", "tokens", "loss_drop_millionths", "planned_micros"),
    "planned_actual_micros",
)


def upgrade() -> None:
    """Apply this step."""
    for table in SEALED:
        op.add_column(table, sa.Column("seal", sa.String(length=16), nullable=False, server_default=""))
    _columns()
    _curves()
    _new_tables()
    op.create_index("ix_rentals_provider_intended", "rentals", ["provider", "intended_at"])
    op.create_index("ix_rentals_instance", "rentals", ["instance_id"])
    _append_only()


def _columns() -> None:
    op.add_column("runs", sa.Column("project", sa.String(length=80), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("labels", sa.JSON(), nullable=False, server_default="[]"))
    for name in ("training_at", "work_ended_at", "saved_at"):
        op.add_column("rentals", sa.Column(name, UtcDateTime(), nullable=True))
    op.add_column("rentals", sa.Column("ending", sa.String(length=20), nullable=False, server_default=""))
    op.add_column("rentals", sa.Column("interruptible", sa.Boolean(), nullable=False, server_default=sa.false()))
    # Written as SQL: a named CHECK in ADD COLUMN is understood by both databases, and spares SQLite a copy of the table.
    op.execute(
        f"ALTER TABLE charges ADD COLUMN kind VARCHAR(10) NOT NULL DEFAULT 'gpu' CONSTRAINT ck_charges_kind CHECK (kind IN ({KINDS}))"
    )
    op.add_column("charges", sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("charges", sa.Column("source", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("events", sa.Column("previous", sa.String(length=16), nullable=False, server_default=""))


def _curves() -> None:
    """Put the metrics of each run into one row; a view goes on showing its steps."""
    op.create_table(
        "curves",
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("stride", sa.Integer(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_curves_run_id"),
        sa.PrimaryKeyConstraint("run_id", name="pk_curves"),
    )
    _move_metrics()
    op.drop_table("metrics")
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIEW metrics AS SELECT run_id, CAST(point.value AS INTEGER) AS step FROM curves, json_each(columns, '$.step') point"
        )
    else:
        op.execute(
            "CREATE VIEW metrics AS SELECT run_id, CAST(point.value AS INTEGER) AS step "
            "FROM curves, json_array_elements_text(columns -> 'step') AS point(value)"
        )


def _move_metrics() -> None:
    from lumina_cloud.ledger.curves import extended
    from lumina_cloud.ledger.records import MetricRecord
    from lumina_cloud.ledger.rows import to_row

    connection = op.get_bind()
    metrics = sa.table("metrics", sa.column("run_id"), sa.column("step"), sa.column("data", sa.JSON()))
    curves = sa.table(
        "curves",
        *(sa.column(n) for n in ("run_id", "stride", "last_step")),
        sa.column("columns", sa.JSON()),
        sa.column("seal"),
    )
    for (run_id,) in connection.execute(sa.select(metrics.c.run_id).distinct()).all():
        rows = connection.execute(sa.select(metrics.c.step, metrics.c.data).where(metrics.c.run_id == run_id).order_by(metrics.c.step))
        curve = extended(None, run_id, [MetricRecord(run_id, step, data) for step, data in rows])
        connection.execute(sa.insert(curves).values(to_row(curve)))


def _new_tables() -> None:
    op.create_table(
        "spending",
        sa.Column("dimension", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in MICROS),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("dimension", "key", name="pk_spending"),
    )
    op.create_table(
        "budgets",
        sa.Column("project", sa.String(length=80), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("usd_cap_micros", sa.BigInteger(), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.CheckConstraint("usd_cap_micros >= 0", name=op.f("ck_budgets_cap")),
        sa.PrimaryKeyConstraint("project", "month", name="pk_budgets"),
    )
    op.create_table(
        "notices",
        sa.Column("notice_id", sa.String(length=200), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=80), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.CheckConstraint("state IN ('due', 'sent', 'given_up')", name=op.f("ck_notices_state")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_notices_run_id"),
        sa.PrimaryKeyConstraint("notice_id", name="pk_notices"),
    )
    op.create_index("ix_notices_due", "notices", ["state", "due_at"])
    op.create_table(
        "sweeps",
        sa.Column("sweep_id", sa.String(length=80), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("usd_cap_micros", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.CheckConstraint("state IN ('running', 'finished', 'stopped')", name=op.f("ck_sweeps_state")),
        sa.PrimaryKeyConstraint("sweep_id", name="pk_sweeps"),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )


def _append_only() -> None:
    """Let the database itself refuse to change or remove what happened."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events WHEN OLD.seal <> '' "
                "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION events_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF OLD.seal <> '' THEN RAISE EXCEPTION 'events are append-only'; END IF; RETURN NEW; END $$"
    )
    op.execute("CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_append_only()")

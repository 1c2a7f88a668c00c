"""Tables of the first release."""

import sqlalchemy as sa
from alembic import op

from lumina_cloud.ledger.tables import UtcDateTime

# Written out: a migration says what the schema was then, whatever the code says now.
RUN_STATES = "'planned', 'provisioning', 'preparing', 'training', 'finishing', 'succeeded', 'failed', 'stopped'"
RENTAL_STATES = "'intended', 'creating', 'booting', 'ready', 'terminating', 'ended', 'lost'"

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_plans")),
    )
    with op.batch_alter_table("plans", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_plans_created_at"), ["created_at"], unique=False)

    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("model", sa.String(length=40), nullable=False),
        sa.Column("arch", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("config_json", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.String(length=40), nullable=True),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("gpu", sa.String(length=60), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("usd_per_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("planned", sa.JSON(), nullable=False),
        sa.Column("usd_cap_micros", sa.BigInteger(), nullable=False),
        sa.Column("seconds_cap", sa.Float(), nullable=False),
        sa.Column("data_path", sa.Text(), nullable=True),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("stop_requested_at", UtcDateTime(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            f"state IN ({RUN_STATES})",
            name=op.f("ck_runs_state"),
        ),
        sa.CheckConstraint("usd_cap_micros >= 0", name=op.f("ck_runs_cap")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.plan_id"], name=op.f("fk_runs_plan_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_runs_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_runs_state"), ["state"], unique=False)

    op.create_table(
        "artifacts",
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("path", sa.String(length=400), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.CheckConstraint("n_bytes >= 0", name=op.f("ck_artifacts_size")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_artifacts_run_id")),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "metrics",
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_metrics_run_id")),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_metrics")),
    )
    op.create_table(
        "rentals",
        sa.Column("rental_id", sa.String(length=100), nullable=False),
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(length=120), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("gpu", sa.String(length=60), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("usd_per_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("offer_id", sa.String(length=120), nullable=False),
        sa.Column("instance_id", sa.String(length=120), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("intended_at", UtcDateTime(), nullable=False),
        sa.Column("ready_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(f"state IN ({RENTAL_STATES})", name=op.f("ck_rentals_state")),
        sa.CheckConstraint("usd_per_hour_micros >= 0", name=op.f("ck_rentals_price")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_rentals_run_id")),
        sa.PrimaryKeyConstraint("rental_id", name=op.f("pk_rentals")),
        sa.UniqueConstraint("tag", name=op.f("uq_rentals_tag")),
    )
    with op.batch_alter_table("rentals", schema=None) as batch_op:
        batch_op.create_index("ix_rentals_run_attempt", ["run_id", "attempt"], unique=True)
        batch_op.create_index(batch_op.f("ix_rentals_state"), ["state"], unique=False)

    op.create_table(
        "charges",
        sa.Column("charge_id", sa.String(length=120), nullable=False),
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("rental_id", sa.String(length=100), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("usd_per_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("basis", sa.String(length=10), nullable=False),
        sa.CheckConstraint("basis IN ('metered', 'billed')", name=op.f("ck_charges_basis")),
        sa.CheckConstraint("usd_micros >= 0", name=op.f("ck_charges_amount")),
        sa.ForeignKeyConstraint(["rental_id"], ["rentals.rental_id"], name=op.f("fk_charges_rental_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_charges_run_id")),
        sa.PrimaryKeyConstraint("charge_id", name=op.f("pk_charges")),
    )
    with op.batch_alter_table("charges", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_charges_rental_id"), ["rental_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_charges_run_id"), ["run_id"], unique=False)

    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("run_id", sa.String(length=80), nullable=True),
        sa.Column("rental_id", sa.String(length=100), nullable=True),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rental_id"], ["rentals.rental_id"], name=op.f("fk_events_rental_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_events_run_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_events_run_id"), ["run_id"], unique=False)

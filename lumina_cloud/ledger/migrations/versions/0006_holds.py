"""Money is kept back for a rental before it is created, so that two of them cannot both take the last of a cap."""

import sqlalchemy as sa
from alembic import op

from lumina_cloud.ledger.tables import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "holds",
        sa.Column("rental_id", sa.String(length=100), nullable=False),
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.Column("seal", sa.String(length=16), nullable=False),
        sa.CheckConstraint("usd_micros >= 0", name=op.f("ck_holds_amount")),
        sa.ForeignKeyConstraint(["rental_id"], ["rentals.rental_id"], name="fk_holds_rental_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_holds_run_id"),
        sa.PrimaryKeyConstraint("rental_id", name="pk_holds"),
    )
    op.create_index("ix_holds_run_id", "holds", ["run_id"])

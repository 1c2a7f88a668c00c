"""A history of market prices."""

import sqlalchemy as sa
from alembic import op

from lumina_cloud.ledger.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "prices_seen",
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("gpu", sa.String(length=60), nullable=False),
        sa.Column("count", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("interruptible", sa.Boolean(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("usd_per_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("offers", sa.Integer(), nullable=False),
        sa.CheckConstraint("usd_per_hour_micros >= 0", name=op.f("ck_prices_seen_price")),
        sa.PrimaryKeyConstraint("provider", "gpu", "count", "interruptible", "seen_at", name=op.f("pk_prices_seen")),
    )
    with op.batch_alter_table("prices_seen", schema=None) as batch_op:
        batch_op.create_index("ix_prices_seen_gpu", ["gpu", "seen_at"], unique=False)

"""The newest runs of a state are found without sorting all of that state."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_index("ix_runs_state_created", "runs", ["state", "created_at"])
    op.drop_index("ix_runs_state", table_name="runs")

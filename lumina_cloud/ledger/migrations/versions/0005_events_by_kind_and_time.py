"""Events of one kind since a moment are found without reading all events: every launch asks which machines failed lately."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_index("ix_events_kind_at", "events", ["kind", "at"])

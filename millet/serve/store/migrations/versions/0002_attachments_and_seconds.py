"""Files that come with a message, and how long a reply took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("messages", sa.Column("attachments", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("messages", sa.Column("seconds", sa.Float()))

"""A count of each conversation's changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

Counting = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("conversations", sa.Column("revision", Counting, nullable=False, server_default="1"))
    op.create_index("ix_conversations_account_revision", "conversations", ["account", "revision"])

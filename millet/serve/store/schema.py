"""The tables. A change here needs a migration beside it; a test compares the two.

Times are seconds since 1970, UTC. Identifiers are random; `number` columns count up, for order alone, and are never
shown. The full-text index, `search_words`, is each database's own kind of table: see `search.py`.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

Counting = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only in an INTEGER PRIMARY KEY

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False, unique=True),  # the name as compared: folded
    sa.Column("password_hash", sa.Text),  # none: nobody can sign in yet
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("balance", sa.Float),
    sa.Column("created", sa.Float, nullable=False),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    # An account that is there already, of which the link sets the name and the password.
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE")),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used_by", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE")),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("last_seen", sa.Float, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.Text, nullable=False, unique=True),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("last_used", sa.Float),
    sa.Column("revoked", sa.Float),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("number", Counting, primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),  # whole days since 1970, UTC
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("cached_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("reasoning_tokens", sa.Integer, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Index("ix_usage_account_day", "account", "day"),
)

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("deleted", sa.Float),  # when; it can be restored for a while
    # One more with every update, of whatever: see changes.py.
    sa.Column("revision", Counting, nullable=False, server_default="1", onupdate=sa.text("revision + 1")),
    sa.Index("ix_conversations_account_updated", "account", "updated"),
    sa.Index("ix_conversations_account_revision", "account", "revision"),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("number", Counting, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column(
        "conversation", sa.Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    # No cascade along the branch: they all go with the conversation, and SQLite limits how deep a cascade may go.
    sa.Column("parent", sa.Text, sa.ForeignKey("messages.id"), index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("attachments", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("reasoning", sa.Text, nullable=False),
    sa.Column("tool_calls", sa.JSON, nullable=False),
    sa.Column("tool_call_id", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.Text),
    sa.Column("usage", sa.JSON(none_as_null=True)),
    sa.Column("thought_seconds", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("owner", sa.BigInteger),  # the process that streams it
    sa.Index(
        "ix_messages_streaming",
        "owner",
        sqlite_where=sa.text("owner IS NOT NULL"),
        postgresql_where=sa.text("owner IS NOT NULL"),
    ),
)

search_entries = sa.Table(
    "search_entries",
    metadata,
    sa.Column("number", Counting, primary_key=True),
    sa.Column(
        "conversation", sa.Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    # None: the entry is the conversation's title.
    sa.Column("message", sa.Text, sa.ForeignKey("messages.id", ondelete="CASCADE"), index=True),
)

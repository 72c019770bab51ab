"""Whether anything has changed since somebody last asked, at the cost of two look-ups in an index."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from millet.serve.store.database import Database
from millet.serve.store.schema import conversations


@dataclass(frozen=True, slots=True)
class Changes:
    """Both are opaque, and differ from what they were when anything has changed since. list: of the account's
    conversations. conversation: of the one that was asked for; None where there is no such one."""

    list: str
    conversation: str | None


def changes(database: Database, account: str, conversation: str | None = None) -> Changes:
    """conversation: of which more than its place in the list matters."""
    table = conversations
    # Deleted ones count too: so the sum only grows, until they are gone for good.
    of_all = sa.select(sa.func.count(), sa.func.sum(table.c.revision)).where(table.c.account == account)
    of_one = sa.select(table.c.revision).where(
        table.c.id == conversation, table.c.account == account, table.c.deleted.is_(None)
    )
    with database.read() as connection:
        number, revisions = connection.execute(of_all).one()
        revision = None if conversation is None else connection.execute(of_one).scalar_one_or_none()
    return Changes(f"{number}-{revisions or 0}", None if revision is None else str(revision))

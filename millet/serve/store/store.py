"""The store: everything that outlives the process."""

from __future__ import annotations

import time

from millet.serve.store.conversations import Conversations
from millet.serve.store.database import Database
from millet.serve.store.ownership import Ownership
from millet.serve.store.records import Hit, Message
from millet.serve.store.replies import ReplyWriter, mark_interrupted
from millet.serve.store.schema import invitations, sessions
from millet.serve.store.search import search
from millet.serve.store.usage import UsageLog

KEPT = 30 * 86400  # seconds that a deleted conversation can still be restored


class Store:
    """Threads may share it. Its calls block, but for `replies`; on an event loop, run them in a thread."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._ownership = Ownership(database)
        self.conversations = Conversations(database, self._ownership.number)
        self.replies = ReplyWriter(database, self._ownership.number)
        self.usage = UsageLog(database)

    @classmethod
    def open(cls, url: str) -> Store:
        """sqlite:///path or postgresql://user:password@host/name; brought to the newest schema. Replies that a dead
        process left half written are marked as interrupted. Raises StoreError."""
        store = cls(Database.open(url))
        store.sweep()
        return store

    def sweep(self) -> None:
        """Remove what is over: conversations deleted long ago, sessions and invitations past their time. End what dead
        processes left half written. To be called again and again while the process lives."""
        now = time.time()
        self._ownership.renew()
        mark_interrupted(self.database, self._ownership)
        self._ownership.remove_files()
        self.conversations.purge(now - KEPT)
        with self.database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.expires < now))
            connection.execute(invitations.delete().where(invitations.c.expires < now))

    def resume_reply(self, account: str, message: Message) -> Message:
        """Let a reply that did not come to its end go on from where it was, as `message` has it. Raises ApiError as
        `Conversations.resume_reply`."""
        self.replies.wait_until_written(message.id)
        resumed = self.conversations.resume_reply(account, message)
        self.replies.resume(resumed)
        return resumed

    def search(self, account: str, text: str, limit: int = 20) -> list[Hit]:
        """The account's messages and titles that have all words of the text, newest first."""
        return search(self.database, account, text, limit)

    def close(self) -> None:
        """Writes what is under way."""
        self.replies.close()
        self._ownership.close()
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

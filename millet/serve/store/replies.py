"""Replies on their way into the database, while they stream.

Tokens are gathered in memory, and a thread writes all replies that grew in one transaction, at most every half second:
a process that is killed loses less than the last second. Each write holds the whole text, so that one whose outcome is
unknown can be repeated. A reply that the database refuses holds back none but itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.store.database import Database
from millet.serve.store.ownership import Ownership
from millet.serve.store.records import Message, Status, clean
from millet.serve.store.schema import conversations, messages
from millet.serve.store.search import index_again

INTERVAL = 0.5  # seconds between writes of a growing reply
HELD = 10.0  # seconds until a reply that the database refused is tried again
PATIENCE = 5.0  # seconds that one who wants to go on with a reply waits for its end to be written

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reply:
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    done: Future[None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.done.set_running_or_notify_cancel()  # whoever waits no longer cannot cancel it

    def row(self) -> dict[str, Any]:
        self.reasoning, self.content = [clean("".join(self.reasoning))], [clean("".join(self.content))]
        return {"reasoning": self.reasoning[0], "content": self.content[0], **self.end}


class ReplyWriter:
    """Writes the replies that `Conversations.begin_reply` began. No method blocks but `wait_until_written` and `close`.

    owner: as in `Conversations`."""

    def __init__(self, database: Database, owner: int) -> None:
        self._database = database
        self._owner = owner
        self._replies: dict[str, _Reply] = {}
        self._grown: set[str] = set()  # since they were last written
        self._ended: set[str] = set()  # of those: somebody waits for the end to be on disk
        self._held: dict[str, float] = {}  # those that the database refused: when each is tried again
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="millet-replies", daemon=True)
        self._thread.start()

    def wait_until_written(self, message: str) -> None:
        """For the end of a reply. Raises ApiError 409 where that does not come."""
        with self._changed:
            if not self._changed.wait_for(lambda: message not in self._replies, timeout=PATIENCE):
                raise ApiError(409, "the reply is still being written; try again soon", code="reply_streaming")

    def resume(self, message: Message) -> None:
        """The reply, written to its end before, grows from what there is of it."""
        with self._changed:
            self._replies[message.id] = _Reply([message.reasoning], [message.content])

    def append(self, message: str, *, reasoning: str = "", content: str = "") -> None:
        """What the reply grew by; on disk within a second. Nothing may follow `finish`."""
        with self._changed:
            reply = self._replies.setdefault(message, _Reply())
            if reply.end:
                return
            reply.reasoning.append(reasoning)
            reply.content.append(content)
            if not self._grown:
                self._changed.notify_all()
            self._grown.add(message)

    def finish(
        self,
        message: str,
        status: Status,
        *,
        finish_reason: str | None = None,
        usage: Usage | None = None,
        tool_calls: tuple[ToolCall, ...] = (),
        thought_seconds: float = 0.0,
        seconds: float | None = None,
    ) -> Future[None]:
        """The reply's end. The future is done when all of the reply is on disk. Where it holds an error, writing is
        tried again, as long as the process lives."""
        end = {
            "status": status,
            "finish_reason": finish_reason,
            "usage": usage and asdict(usage),
            "tool_calls": [asdict(call) for call in tool_calls],
            "thought_seconds": thought_seconds,
            "seconds": seconds,
            "owner": None,
        }
        with self._changed:
            reply = self._replies.setdefault(message, _Reply())
            if not reply.end:
                reply.end = end
                self._grown.add(message)
                self._ended.add(message)
                self._held.pop(message, None)
                self._changed.notify_all()
            return reply.done

    def close(self) -> None:
        """Write everything; replies without an end are interrupted ones."""
        with self._changed:
            self._closing = True
            for message, reply in self._replies.items():
                reply.end = reply.end or {"status": "interrupted", "owner": None}
                self._grown.add(message)
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()  # when those that only grew are written; those that ended are at once
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._grown or self._closing)
                self._changed.wait_for(lambda: self._ended or self._closing, timeout=max(0.0, due - time.monotonic()))
                closing = self._closing
                if closing or time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL
                    now = time.monotonic()
                    chosen = {each for each in self._grown if closing or self._held.get(each, now) <= now} | self._ended
                else:
                    chosen = set(self._ended)
                streaming = {"status": "streaming", "owner": self._owner}
                batch = {message: streaming | self._replies[message].row() for message in chosen}
                self._grown -= chosen
                self._ended.clear()
            if batch:
                self._write(batch)
            if closing:
                return

    def _write(self, batch: Mapping[str, dict[str, Any]]) -> None:
        """All at once, or each alone where that fails. Raises nothing: the thread must live on."""
        try:
            self._commit(batch)
        except Exception as error:
            if self._can_write():
                for message, row in batch.items():
                    self._write_alone(message, row)
            else:
                log.error("replies could not be written (%s); trying again", type(error).__name__)
                self._failed(batch, error)

    def _write_alone(self, message: str, row: dict[str, Any]) -> None:
        try:
            self._commit({message: row})
        except Exception as error:
            log.error("reply %s could not be written (%s); trying again", message, type(error).__name__)
            self._failed({message: row}, error, held=HELD)

    def _commit(self, batch: Mapping[str, dict[str, Any]]) -> None:
        with self._database.write() as connection:
            _write(connection, batch, self._owner)
        self._written(batch)

    def _can_write(self) -> bool:
        """Whether the database takes anything now; else no reply is to blame."""
        try:
            with self._database.write():
                return True
        except Exception:
            return False

    def _written(self, batch: Mapping[str, dict[str, Any]]) -> None:
        with self._changed:
            for message, row in batch.items():
                self._held.pop(message, None)
                if row["status"] != "streaming":
                    reply = self._replies.pop(message)
                    if not reply.done.done():
                        reply.done.set_result(None)
            self._changed.notify_all()

    def _failed(self, batch: Mapping[str, dict[str, Any]], error: Exception, held: float = 0.0) -> None:
        with self._changed:
            self._grown.update(batch)
            self._held.update(dict.fromkeys(batch, time.monotonic() + held))
            for message, row in batch.items():
                done = self._replies[message].done
                if row["status"] != "streaming" and not done.done():
                    done.set_exception(error)


def _write(connection: sa.Connection, batch: Mapping[str, dict[str, Any]], owner: int) -> None:
    # An interrupted one may be ours: taken for a dead process's while PostgreSQL had lost our connection. Where another
    # process goes on with it by now, it is the other's.
    ours = sa.or_(messages.c.owner == owner, messages.c.status == "interrupted")
    update = messages.update().where(messages.c.id == sa.bindparam("reply"), ours)
    growing = [{"reply": message, **row} for message, row in batch.items() if row["status"] == "streaming"]
    if growing:
        connection.execute(update, growing)
    for message, row in batch.items():
        if row["status"] != "streaming":
            ended = update.values(**row).returning(messages.c.conversation)
            conversation = connection.execute(ended, {"reply": message}).scalar_one_or_none()
            if conversation is not None:
                index_again(connection, conversation, message, row["content"])
                touched = conversations.update().where(conversations.c.id == conversation)
                connection.execute(touched.values(updated=time.time()))


def mark_interrupted(database: Database, ownership: Ownership) -> int:
    """End the replies whose process is gone, with what they have. Returns how many."""
    with database.write() as connection:
        owners = connection.execute(sa.select(messages.c.owner).where(messages.c.owner.is_not(None)).distinct())
        gone = [owner for owner in owners.scalars() if ownership.is_gone(owner)]
        update = messages.update().where(messages.c.owner.in_(gone)).values(status="interrupted", owner=None)
        ended = connection.execute(update.returning(messages.c.id, messages.c.conversation, messages.c.content)).all()
        for row in ended:
            index_again(connection, row.conversation, row.id, row.content)
            changed = conversations.update().where(conversations.c.id == row.conversation)
            connection.execute(changed.values(revision=conversations.c.revision + 1))
    return len(ended)

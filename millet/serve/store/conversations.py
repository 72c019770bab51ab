"""Conversations: trees of messages that belong to an account.

Whatever is another account's is answered like what does not exist: ApiError 404.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.store.database import Database
from millet.serve.store.records import Attachment, Conversation, Message, MessageRole, Page, Tree, clean, new_id
from millet.serve.store.schema import conversations, messages
from millet.serve.store.search import index_again, index_text, index_words, parts
from millet.serve.store.words import split_words

TITLE = 200  # characters
CHUNK = 500  # messages of an import that are written in one transaction
IMPORTS = 2  # at once
_CONVERSATION = [conversations.c[f.name] for f in fields(Conversation)]
_MESSAGE = [messages.c[f.name] for f in fields(Message)]


class Conversations:
    """owner: who streams the replies begun here, as in `ownership.py`."""

    def __init__(self, database: Database, owner: int) -> None:
        self._database = database
        self._owner = owner
        self._imports = threading.BoundedSemaphore(IMPORTS)

    def create(self, account: str, title: str = "") -> Conversation:
        """Without a title it takes the beginning of the first thing that is said."""
        now = time.time()
        conversation = Conversation(new_id(), _title(title), now, now)
        with self._database.write() as connection:
            connection.execute(conversations.insert().values(account=account, **asdict(conversation)))
            index_text(connection, conversation.id, None, conversation.title)
        return conversation

    def get(self, account: str, conversation: str) -> Conversation:
        with self._database.read() as connection:
            return _get(connection, account, conversation)

    def list(self, account: str, limit: int = 50, after: str | None = None) -> Page:
        """Newest first. after: `next` of the page before."""
        table = conversations
        query = sa.select(*_CONVERSATION).where(table.c.account == account, table.c.deleted.is_(None))
        if after is not None:
            updated, last = _cursor(after)
            query = query.where(sa.tuple_(table.c.updated, table.c.id) < sa.tuple_(sa.literal(updated), last))
        query = query.order_by(table.c.updated.desc(), table.c.id.desc()).limit(limit + 1)
        with self._database.read() as connection:
            found = [Conversation(*row) for row in connection.execute(query)]
        page = found[:limit]
        return Page(page, f"{page[-1].updated!r}-{page[-1].id}" if len(found) > limit else None)

    def rename(self, account: str, conversation: str, title: str) -> Conversation:
        with self._database.write() as connection:
            _get(connection, account, conversation)
            _update(connection, conversation, title=_title(title))
            index_again(connection, conversation, None, _title(title))
            return _get(connection, account, conversation)

    def delete(self, account: str, conversation: str) -> None:
        """It is found no more. `restore` brings it back, until `purge` has removed it."""
        with self._database.write() as connection:
            _get(connection, account, conversation)
            _update(connection, conversation, deleted=time.time())

    def restore(self, account: str, conversation: str) -> Conversation:
        with self._database.write() as connection:
            _get(connection, account, conversation, deleted=True)
            _update(connection, conversation, deleted=None)
            return _get(connection, account, conversation)

    def purge(self, before: float) -> None:
        """Remove for good what was deleted before that time."""
        overdue = conversations.c.deleted < before
        with self._database.read() as connection:
            found = connection.execute(sa.select(conversations.c.id).where(overdue)).scalars().all()
        for conversation in found:  # each alone: what streams meanwhile is to be written too
            with self._database.write() as connection:
                connection.execute(conversations.delete().where(conversations.c.id == conversation, overdue))

    def tree(self, account: str, conversation: str) -> Tree:
        query = sa.select(*_MESSAGE).where(messages.c.conversation == conversation).order_by(messages.c.number)
        with self._database.read() as connection:
            found = _get(connection, account, conversation)
            return Tree(found, [_message(row) for row in connection.execute(query)])

    def path(self, account: str, message: str) -> Sequence[Message]:
        """The branch from the root to this message, both included."""
        branch = (
            sa.select(messages.c.id, messages.c.parent)
            .join(conversations, conversations.c.id == messages.c.conversation)
            .where(messages.c.id == message, conversations.c.account == account, conversations.c.deleted.is_(None))
            .cte("branch", recursive=True)
        )
        branch = branch.union_all(
            sa.select(messages.c.id, messages.c.parent).join(branch, messages.c.id == branch.c.parent)
        )
        query = sa.select(*_MESSAGE).join(branch, messages.c.id == branch.c.id).order_by(messages.c.number)
        with self._database.read() as connection:
            found = [_message(row) for row in connection.execute(query)]
        if not found:
            raise _no_message()
        return found

    def add_message(
        self,
        account: str,
        conversation: str,
        parent: str | None,
        role: MessageRole,
        content: str,
        tool_call_id: str | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> Message:
        """A message that is whole. parent: what it follows; None begins the conversation. An edit is a new message with
        the parent of the old one."""
        files = tuple(Attachment(clean(file.name), clean(file.text)) for file in attachments)
        message = Message(
            new_id(), conversation, parent, role, clean(content), files, tool_call_id=tool_call_id, created=time.time()
        )
        words = list(parts(split_words(_searched(asdict(message)))))  # which takes long, and others want to write
        with self._database.write() as connection:
            found = _get(connection, account, conversation)
            _check_parent(connection, conversation, parent)
            connection.execute(messages.insert().values(**_row(message)))
            index_words(connection, conversation, [(message.id, part) for part in words])
            _update(connection, conversation, updated=message.created)
            if not found.title and role == "user" and (title := _title(content)):
                _update(connection, conversation, title=title)
                index_again(connection, conversation, None, title)
        return message

    def begin_reply(self, account: str, parent: str, model: str) -> Message:
        """An empty reply, to be written with `ReplyWriter`. Replies with one parent are versions of it."""
        with self._database.write() as connection:
            query = sa.select(messages.c.conversation).where(messages.c.id == parent)
            conversation = connection.execute(query).scalar_one_or_none()
            if conversation is None:
                raise _no_message()
            _get(connection, account, conversation)
            now = time.time()
            message = Message(
                new_id(), conversation, parent, "assistant", "", model=model, status="streaming", created=now
            )
            connection.execute(messages.insert().values(**_row(message), owner=self._owner))
            _update(connection, conversation, updated=now)
        return message

    def resume_reply(self, account: str, message: Message) -> Message:
        """The reply streams again, to be written with `ReplyWriter`. message: what its prompt was made of. Raises
        ApiError 409 where it cannot go on, streams already, or is no longer as the message."""
        with self._database.write() as connection:
            _get(connection, account, message.conversation)
            row = connection.execute(sa.select(*_MESSAGE).where(messages.c.id == message.id).with_for_update()).one()
            check_can_go_on(found := _message(row))
            if found != message:
                raise ApiError(409, "the reply has changed meanwhile; load it again", code="reply_changed")
            streaming: dict[str, Any] = {"status": "streaming", "finish_reason": None}
            update = messages.update().where(messages.c.id == message.id)
            connection.execute(update.values(**streaming, owner=self._owner))
            _update(connection, message.conversation, updated=time.time())
        return replace(found, **streaming)

    def add_tree(self, account: str, title: str, nodes: Sequence[Message]) -> Conversation:
        """A conversation that came from elsewhere, parents before their children. Ids become new ones, since the old
        may be here already. Raises ApiError 503 while as many come as may at once."""
        if not self._imports.acquire(blocking=False):  # who waits would keep a thread that others need
            raise ApiError(503, "other conversations are being imported; try again soon", code="busy", retry_after=5)
        try:
            return self._add_tree(account, title, nodes)
        finally:
            self._imports.release()

    def _add_tree(self, account: str, title: str, nodes: Sequence[Message]) -> Conversation:
        now = time.time()
        conversation = Conversation(new_id(), _title(title), now, now)
        ids = {node.id: new_id() for node in nodes}
        rows = [
            _row(node)
            | {
                "id": ids[node.id],
                "conversation": conversation.id,
                "parent": None if node.parent is None else ids[node.parent],
            }
            for node in nodes
        ]
        # Replies that stream meanwhile are to be written too: so transactions are short, and words are split outside of
        # them. Until the last one the conversation is a deleted one, which is what a process that dies leaves behind.
        with self._database.write() as connection:
            connection.execute(conversations.insert().values(account=account, **asdict(conversation), deleted=now))
            index_text(connection, conversation.id, None, conversation.title)
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            entries = [(row["id"], part) for row in some for part in parts(split_words(_searched(row)))]
            with self._database.write() as connection:
                connection.execute(messages.insert(), some)
                index_words(connection, conversation.id, entries)
        with self._database.write() as connection:
            _update(connection, conversation.id, deleted=None)
        return conversation


def check_can_go_on(message: Message) -> None:
    """Raises ApiError: 404 for what is no reply, 409 where it streams, or has come to its end."""
    if message.role != "assistant":
        raise ApiError(404, "this message is no reply; continue the one that follows it", code="reply_not_found")
    if message.status == "streaming":
        raise ApiError(409, "the reply is still being written; follow its events", code="reply_streaming")
    cut = message.status in ("stopped", "interrupted", "failed") or message.finish_reason in ("length", "loop")
    if message.tool_calls or not cut:
        raise ApiError(409, "the reply is complete; say something more, or ask for another one", code="reply_complete")


def _row(message: Message) -> dict[str, Any]:
    return {name: _cleaned(value) for name, value in asdict(message).items()}


def _cleaned(value: Any) -> Any:
    """All text in a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def _searched(row: dict[str, Any]) -> str:
    """What the message is found by."""
    return "\n".join([row["content"], *(text for file in row["attachments"] for text in (file["name"], file["text"]))])


def _message(row: sa.Row[Any]) -> Message:
    values = dict(row._mapping)
    values["attachments"] = tuple(Attachment(**file) for file in values["attachments"])
    values["tool_calls"] = tuple(ToolCall(**call) for call in values["tool_calls"])
    values["usage"] = values["usage"] and Usage(**values["usage"])
    return Message(**values)


def _get(connection: sa.Connection, account: str, conversation: str, deleted: bool = False) -> Conversation:
    table = conversations
    query = sa.select(*_CONVERSATION).where(
        table.c.id == conversation,
        table.c.account == account,
        table.c.deleted.is_not(None) if deleted else table.c.deleted.is_(None),
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ApiError(404, "there is no such conversation; it may have been deleted", code="conversation_not_found")
    return Conversation(*row)


def _update(connection: sa.Connection, conversation: str, **values: Any) -> None:
    connection.execute(conversations.update().where(conversations.c.id == conversation).values(**values))


def _check_parent(connection: sa.Connection, conversation: str, parent: str | None) -> None:
    if parent is None:
        return
    query = sa.select(messages.c.id).where(messages.c.id == parent, messages.c.conversation == conversation)
    if connection.execute(query).one_or_none() is None:
        raise _no_message()


def _no_message() -> ApiError:
    return ApiError(404, "there is no such message in this conversation; load it again", code="message_not_found")


def _title(text: str) -> str:
    return " ".join(clean(text[: 4 * TITLE]).split())[:TITLE]


def _cursor(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"(\d+\.\d+)-([0-9a-f]{32})", text)
    if match is None:
        raise ApiError(422, "after is not what a page gave as next; leave it out to begin anew", param="after")
    return float(match[1]), match[2]

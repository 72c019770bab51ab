"""Replies, written as they stream: whole in the end, interrupted with their process; on both databases."""

import asyncio
import threading
import time

import pytest
import sqlalchemy as sa

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.store import Message, Store
from millet.serve.store.database import Database
from millet.serve.store.search import index_again
from tests.serve.store.rows import ME, begin


def test_a_reply_is_written_as_it_streams_and_whole_when_it_ends(store: Store) -> None:
    reply = begin(store)
    store.replies.append(reply.id, reasoning="because ")
    store.replies.append(reply.id, content="so ")
    while (partial := store.conversations.path(ME, reply.id)[-1]).content == "":
        time.sleep(0.02)
    assert (partial.status, partial.reasoning, partial.content) == ("streaming", "because ", "so ")
    store.replies.append(reply.id, content="it is")
    used = Usage(3, 4, 2, 1)
    ended = store.replies.finish(
        reply.id,
        "complete",
        finish_reason="stop",
        usage=used,
        thought_seconds=1.5,
        tool_calls=(ToolCall("i", "n", "{}"),),
    )
    ended.result(10)
    found = store.conversations.path(ME, reply.id)[-1]
    assert (found.reasoning, found.content, found.status) == ("because ", "so it is", "complete")
    assert (found.finish_reason, found.usage, found.thought_seconds) == ("stop", used, 1.5)
    assert found.tool_calls == (ToolCall("i", "n", "{}"),)
    assert found.model == "a-model"


def test_many_replies_from_many_threads(store: Store, seed: int) -> None:
    replies = [begin(store) for _ in range(12)]

    def stream(reply: Message) -> None:
        for number in range(200):
            store.replies.append(reply.id, content=f"{number} ")
        store.replies.finish(reply.id, "complete").result(30)

    threads = [threading.Thread(target=stream, args=(reply,)) for reply in replies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reply in replies:
        found = store.conversations.path(ME, reply.id)[-1]
        assert (found.status, found.content) == ("complete", "".join(f"{n} " for n in range(200)))


def test_closing_writes_what_is_under_way(database_url: str) -> None:
    with Store.open(database_url) as store:
        reply = begin(store)
        store.replies.append(reply.id, content="half a sen")
    with Store.open(database_url) as store:
        found = store.conversations.path(ME, reply.id)[-1]
        assert (found.status, found.content) == ("interrupted", "half a sen")


def test_a_finished_reply_is_not_written_over(store: Store) -> None:
    reply = begin(store)
    store.replies.append(reply.id, content="whole")
    store.replies.finish(reply.id, "stopped").result(10)
    store.replies.append(reply.id, content="late")
    store.replies.finish(reply.id, "complete").result(10)
    found = store.conversations.path(ME, reply.id)[-1]
    assert (found.status, found.content) == ("stopped", "whole")


@pytest.mark.asyncio
async def test_who_waits_no_longer_does_not_stop_the_writer(store: Store) -> None:
    reply = begin(store)
    with store.database.write():  # SQLite's writer has to wait
        ended = store.replies.finish(reply.id, "complete")
        waiting = asyncio.wrap_future(ended)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not ended.cancelled()
    await asyncio.to_thread(ended.result, 10)
    assert store.conversations.path(ME, reply.id)[-1].status == "complete"


def test_replies_of_a_living_process_are_left_alone(database_url: str) -> None:
    with Store.open(database_url) as store:
        reply = begin(store)
        store.replies.append(reply.id, content="still going")
        with Store.open(database_url) as other:
            assert other.conversations.path(ME, reply.id)[-1].status == "streaming"
        store.replies.finish(reply.id, "complete").result(10)
        assert store.conversations.path(ME, reply.id)[-1].status == "complete"


def test_a_database_that_fails_for_a_while_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = begin(store)
    write = Database.write

    def fail(self: Database) -> object:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("disk full"))

    monkeypatch.setattr(Database, "write", fail)
    store.replies.append(reply.id, content="kept")
    ended = store.replies.finish(reply.id, "complete")
    assert isinstance(ended.exception(10), sa.exc.OperationalError)
    monkeypatch.setattr(Database, "write", write)
    while (found := store.conversations.path(ME, reply.id)[-1]).status == "streaming":
        time.sleep(0.02)
    assert (found.status, found.content) == ("complete", "kept")


def test_a_reply_that_cannot_be_written_holds_back_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = begin(store), begin(store)
    monkeypatch.setattr("millet.serve.store.replies.HELD", 0.3)
    broken = True

    def refuse(connection: sa.Connection, conversation: str, message: str, text: str) -> None:
        if broken and message == bad.id:
            raise ValueError(text)
        index_again(connection, conversation, message, text)

    monkeypatch.setattr("millet.serve.store.replies.index_again", refuse)
    with store.database.write():  # SQLite's writer has to wait, so that both are in one batch
        store.replies.append(bad.id, content="a secret")
        failed = store.replies.finish(bad.id, "complete")
        written = store.replies.finish(good.id, "complete")
    written.result(10)
    assert isinstance(failed.exception(10), ValueError)
    assert bad.id in caplog.text
    assert "secret" not in caplog.text
    broken = False
    while (found := store.conversations.path(ME, bad.id)[-1]).status == "streaming":
        time.sleep(0.02)
    assert found.content == "a secret"

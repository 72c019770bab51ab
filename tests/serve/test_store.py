"""The store: opening and migrating, conversations as trees, replies that stream; on both databases."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.store import Message, Store, StoreError
from millet.serve.store.database import Database
from millet.serve.store.schema import metadata
from millet.serve.store.search import index_again
from millet.serve.store.store import KEPT
from millet.serve.store.words import split_words
from tests.serve import postgresql

ME = "local"
ODD = "nul \0, half a pair \ud83d, 'quotes\" \\ % ; -- 🌾 中文"
STORED = "nul \ufffd, half a pair ?, 'quotes\" \\ % ; -- 🌾 中文"


@pytest.fixture
def stranger(store: Store) -> str:
    """Another account's id."""
    with store.database.write() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO accounts (id, name, name_key, role, disabled, limits, created) "
                "VALUES ('stranger', 's', 's', 'member', :no, '{}', 0)"
            ),
            {"no": False},
        )
    return "stranger"


# Opening


def test_migrations_make_the_schema(store: Store) -> None:
    with store.database.read() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    differences = [each for each in found if "search_words" not in str(each)]
    assert differences == []


def test_opening_again_keeps_everything(database_url: str) -> None:
    with Store.open(database_url) as store:
        conversation = store.conversations.create(ME, "kept")
    with Store.open(database_url) as store:
        assert store.conversations.get(ME, conversation.id) == conversation


def test_two_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    program = "import sys; from millet.serve.store import Store; Store.open(sys.argv[1]).close()"
    processes = [subprocess.Popen([sys.executable, "-c", program, database_url]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]


def test_a_newer_database_is_refused_in_one_line(database_url: str) -> None:
    with Store.open(database_url) as store, store.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"^[^\n]*written by a newer Millet \(schema 9999\); upgrade Millet[^\n]*$"):
        Store.open(database_url)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql://host/name", "sqlite://", "sqlite:////proc/none/x.db", "postgresql://me:secret@127.0.0.1:1/x"],
)
def test_a_url_that_does_not_work_is_one_line_without_its_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_file_is_private(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/new/millet.db") as store:
        store.conversations.create(ME)
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "new").iterdir()}
    assert set(modes.values()) == {"0o600"}, modes
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["millet.db"]


def test_sqlite_is_durable_and_checked(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/millet.db") as store, store.database.read() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS]
    assert dict(zip(PRAGMAS, values, strict=True)) == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_write_that_raises_has_not_happened(store: Store) -> None:
    def fail() -> None:
        with store.database.write() as connection:
            connection.execute(sa.text("DELETE FROM accounts"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM accounts")).scalar() == 1


def test_errors_do_not_hold_what_people_wrote(store: Store) -> None:
    conversation = store.conversations.create(ME)
    row = {"id": conversation.id, "account": ME, "title": "a secret", "created": 0, "updated": 0}

    def repeat() -> None:
        with store.database.write() as connection:
            connection.execute(metadata.tables["conversations"].insert().values(**row))

    with pytest.raises(sa.exc.IntegrityError) as caught:
        repeat()
    assert "secret" not in str(caught.value)


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute(sa.text("UPDATE accounts SET name = 'changed'"))
        with store.database.read() as reader:
            assert reader.execute(sa.text("SELECT name FROM accounts")).scalar() == "local"


def test_who_gets_no_connection_is_told_to_come_back(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KEPT_CONNECTIONS": 1, "CONNECTIONS": 2, "POOL_TIMEOUT": 0.05}.items():
        monkeypatch.setattr(f"millet.serve.store.database.{name}", value)
    database = Database.open(database_url)
    with database.read(), database.read():
        assert database.why_not() == "the database is busy; try again soon"
        with pytest.raises(ApiError) as caught, database.read():
            pass
    assert (caught.value.status, caught.value.retry_after) == (503, 5)
    assert database.why_not() is None
    database.close()


def test_a_database_that_is_gone_is_told_in_one_line(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "millet.db"
    database = Database.open(f"sqlite:///{path}")
    database.close()
    path.write_text("something else" * 1000)
    assert database.why_not() == "file is not a database"
    database.close()
    with postgresql.database(request.getfixturevalue("postgresql_server")) as url:
        database = Database.open(url)
    reason = database.why_not()
    assert reason is not None
    assert "does not exist" in reason or "connection" in reason
    assert "\n" not in reason
    database.close()


# Conversations


def test_a_conversation_is_created_renamed_deleted_and_restored(store: Store) -> None:
    talk = store.conversations
    conversation = talk.create(ME, "  two\n words ")
    assert conversation.title == "two words"
    assert talk.rename(ME, conversation.id, "x" * 500).title == "x" * 200
    talk.delete(ME, conversation.id)
    with pytest.raises(ApiError) as caught:
        talk.get(ME, conversation.id)
    assert caught.value.status == 404
    assert talk.list(ME).conversations == []
    assert talk.restore(ME, conversation.id).title == "x" * 200
    assert [each.id for each in talk.list(ME).conversations] == [conversation.id]


def test_pages_list_everything_once_newest_first(store: Store) -> None:
    talk = store.conversations
    made = [talk.create(ME, str(number)).id for number in range(7)]
    talk.add_message(ME, made[2], None, "user", "makes it the newest")
    seen: list[str] = []
    after = None
    while True:
        page = talk.list(ME, limit=3, after=after)
        seen += [each.id for each in page.conversations]
        if (after := page.next) is None:
            break
    assert seen == [made[2], *(made[number] for number in (6, 5, 4, 3, 1, 0))]


def test_a_cursor_that_is_not_one_is_refused(store: Store) -> None:
    for after in ("", "x-y", "nan-", "-1", "inf-x"):
        with pytest.raises(ApiError) as caught:
            store.conversations.list(ME, after=after)
        assert caught.value.status == 422


def test_the_title_is_what_was_said_first(store: Store) -> None:
    conversation = store.conversations.create(ME)
    first = store.conversations.add_message(ME, conversation.id, None, "user", "How tall\nis millet?")
    store.conversations.add_message(ME, conversation.id, first.id, "user", "And wheat?")
    assert store.conversations.get(ME, conversation.id).title == "How tall is millet?"


def test_edits_and_other_replies_make_branches(store: Store) -> None:
    talk = store.conversations
    conversation = talk.create(ME)
    question = talk.add_message(ME, conversation.id, None, "user", "question")
    replies = [talk.begin_reply(ME, question.id, "m") for _ in range(2)]
    edited = talk.add_message(ME, conversation.id, None, "user", "edited")
    follow = talk.add_message(ME, conversation.id, replies[1].id, "user", "follow")
    assert [m.id for m in talk.path(ME, follow.id)] == [question.id, replies[1].id, follow.id]
    assert [m.id for m in talk.path(ME, edited.id)] == [edited.id]
    tree = talk.tree(ME, conversation.id)
    assert [(m.id, m.parent) for m in tree.messages] == [
        (question.id, None),
        (replies[0].id, question.id),
        (replies[1].id, question.id),
        (edited.id, None),
        (follow.id, replies[1].id),
    ]


def test_opening_removes_what_was_deleted_long_ago(database_url: str) -> None:
    with Store.open(database_url) as store:
        old, new = (store.conversations.create(ME, name).id for name in ("old", "new"))
        for each in (old, new):
            store.conversations.delete(ME, each)
        with store.database.write() as connection:
            table = metadata.tables["conversations"]
            connection.execute(table.update().where(table.c.id == old).values(deleted=time.time() - KEPT - 1))
    with Store.open(database_url) as store:
        assert store.conversations.restore(ME, new).title == "new"
        with pytest.raises(ApiError):
            store.conversations.restore(ME, old)


def test_a_sweep_removes_what_is_over_while_the_server_runs(store: Store, stranger: str) -> None:
    old = store.conversations.create(ME, "old").id
    store.conversations.delete(ME, old)
    now = time.time()
    reply = begin(store)
    with store.database.write() as connection:
        tables = metadata.tables
        connection.execute(
            tables["conversations"].update().values(deleted=now - KEPT - 1).where(sa.text("title='old'"))
        )
        connection.execute(tables["messages"].update().values(owner=12345).where(tables["messages"].c.id == reply.id))
        for name, expires in (("over", now - 1), ("open", now + 60)):
            session = {"token_hash": name, "account": stranger, "csrf": "", "created": 0, "last_seen": 0}
            connection.execute(tables["sessions"].insert().values(**session, expires=expires))
            invitation = {"id": name, "token_hash": name, "role": "member", "created": 0}
            connection.execute(tables["invitations"].insert().values(**invitation, expires=expires))
    if store.database.is_sqlite:
        path = store.database.path
        path.with_name(f"{path.name}-owner-abc").touch()
    store.sweep()
    with pytest.raises(ApiError):
        store.conversations.restore(ME, old)
    assert store.conversations.path(ME, reply.id)[-1].status == "interrupted"
    with store.database.read() as connection:
        for name in ("sessions", "invitations"):
            assert connection.execute(sa.select(metadata.tables[name].c.token_hash)).scalars().all() == ["open"]
    if store.database.is_sqlite:
        assert len(list(store.database.path.parent.glob("*-owner-*"))) == 1  # its own


def test_a_process_whose_lock_was_lost_takes_it_again(database_url: str) -> None:
    with Store.open(database_url) as store, Store.open(database_url) as other:
        reply = begin(store)
        if not store.database.is_sqlite:
            with other.database.write() as connection:
                ended = (
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_database ON oid = database "
                    "WHERE locktype = 'advisory' AND datname = current_database() AND pid <> :mine"
                )
                mine = other._ownership._connection
                assert mine is not None
                pid = mine.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
                assert connection.execute(sa.text(ended), {"mine": pid}).scalars().all() == [True]
        store.sweep()
        other.sweep()
        assert other.conversations.path(ME, reply.id)[-1].status == "streaming"


def test_a_deep_conversation_is_followed_and_purged(store: Store) -> None:
    talk = store.conversations
    nodes = [Message(str(n), "", str(n - 1) if n else None, "user", f"m{n}") for n in range(1050)]
    conversation = talk.add_tree(ME, "deep", nodes)
    last = talk.tree(ME, conversation.id).messages[-1]
    assert [m.content for m in talk.path(ME, last.id)] == [f"m{n}" for n in range(1050)]
    talk.delete(ME, conversation.id)
    talk.purge(time.time() + 1)
    with store.database.read() as connection:
        for table in ("conversations", "messages", "search_entries", "search_words"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar() == 0


def test_an_import_lets_others_write_and_is_seen_when_it_is_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [Message(str(n), "", str(n - 1) if n else None, "user", f"m{n} millet") for n in range(25)]
    monkeypatch.setattr("millet.serve.store.conversations.CHUNK", 10)
    seen = []

    def split(text: str) -> list[str]:
        if text in ("m0 millet", "m20 millet"):  # what blocks here blocks for good
            seen.append(store.conversations.create(ME, "meanwhile"))
            assert [each.title for each in store.conversations.list(ME).conversations] == ["meanwhile"] * len(seen)
            assert store.search(ME, "millet") == []
        return split_words(text)

    monkeypatch.setattr("millet.serve.store.conversations.split_words", split)
    conversation = store.conversations.add_tree(ME, "whole", nodes)
    assert len(seen) == 2
    tree = store.conversations.tree(ME, conversation.id)
    assert [(m.content, m.parent) for m in tree.messages] == [
        (f"m{n} millet", tree.messages[n - 1].id if n else None) for n in range(25)
    ]
    assert [hit.message for hit in store.search(ME, "m17 millet")] == [tree.messages[17].id]
    assert [hit.message for hit in store.search(ME, "whole")] == [None]


def test_an_import_that_fails_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Message(str(n), "", None, "user", "millet") for n in range(3)]
    monkeypatch.setattr("millet.serve.store.conversations.CHUNK", 1)
    steps = iter(range(2))
    monkeypatch.setattr("millet.serve.store.conversations.split_words", lambda text: [str(next(steps))])
    with pytest.raises(StopIteration):
        store.conversations.add_tree(ME, "half", nodes)
    assert store.conversations.list(ME).conversations == []
    assert store.search(ME, "half") == []


def test_two_imports_at_once_are_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def split(text: str) -> list[str]:
        begun.release()
        go_on.wait(10)
        return split_words(text)

    monkeypatch.setattr("millet.serve.store.conversations.split_words", split)
    nodes = [Message("0", "", None, "user", "millet")]
    threads = [threading.Thread(target=store.conversations.add_tree, args=(ME, "t", nodes)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=10)
    assert begun.acquire(timeout=10)
    with pytest.raises(ApiError) as caught:
        store.conversations.add_tree(ME, "t", nodes)
    assert (caught.value.status, caught.value.retry_after) == (503, 5)
    go_on.set()
    for thread in threads:
        thread.join()
    store.conversations.add_tree(ME, "t", nodes)
    assert len(store.conversations.list(ME).conversations) == 3


def test_another_accounts_conversations_are_not_there(store: Store, stranger: str) -> None:
    talk = store.conversations
    conversation = talk.create(ME, "mine").id
    message = talk.add_message(ME, conversation, None, "user", "mine").id
    other = talk.create(stranger, "other").id
    attempts = [
        lambda: talk.get(stranger, conversation),
        lambda: talk.rename(stranger, conversation, "x"),
        lambda: talk.delete(stranger, conversation),
        lambda: talk.restore(stranger, conversation),
        lambda: talk.tree(stranger, conversation),
        lambda: talk.path(stranger, message),
        lambda: talk.add_message(stranger, conversation, None, "user", "x"),
        lambda: talk.add_message(stranger, other, message, "user", "x"),
        lambda: talk.begin_reply(stranger, message, "m"),
    ]
    for attempt in attempts:
        with pytest.raises(ApiError) as caught:
            attempt()
        assert caught.value.status == 404
    assert [each.title for each in talk.list(ME).conversations] == ["mine"]


def test_whatever_is_said_can_be_kept(store: Store) -> None:
    talk = store.conversations
    conversation = talk.create(ME, ODD)
    message = talk.add_message(ME, conversation.id, None, "user", ODD)
    assert message.content == STORED
    reply = talk.begin_reply(ME, message.id, "m")
    store.replies.append(reply.id, reasoning=ODD, content=ODD[:23])
    store.replies.append(reply.id, content=ODD[23:])
    call = ToolCall("c", "f", ODD)
    store.replies.finish(reply.id, "complete", tool_calls=(call,)).result(10)
    found = talk.path(ME, reply.id)[-1]
    assert (found.reasoning, found.content) == (STORED, STORED)
    assert store.search(ME, ODD)


# Replies


def begin(store: Store) -> Message:
    conversation = store.conversations.create(ME)
    question = store.conversations.add_message(ME, conversation.id, None, "user", "question")
    return store.conversations.begin_reply(ME, question.id, "a-model")


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

"""What changes, and for whom: pages that poll must miss nothing, and need not load what is as it was."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from millet.serve.store import Message, Store
from millet.serve.store.changes import changes
from millet.serve.store.replies import mark_interrupted
from tests.serve.small_app import Browser, small_app

ME = "local"


class Watch:
    """What two pages see, of which one shows the conversation. Each call says what has changed since the last one:
    (the list, the conversation)."""

    def __init__(self, store: Store, conversation: str) -> None:
        self._store = store
        self._conversation = conversation
        self._known = changes(store.database, ME, conversation)

    def __call__(self) -> tuple[bool, bool]:
        now, before = changes(self._store.database, ME, self._conversation), self._known
        self._known = now
        return now.list != before.list, now.conversation != before.conversation


def test_whatever_is_done_to_a_conversation_is_seen(store: Store) -> None:
    talk = store.conversations
    conversation = talk.create(ME).id
    watch = Watch(store, conversation)
    assert watch() == (False, False)
    question = talk.add_message(ME, conversation, None, "user", "question")
    assert watch() == (True, True)
    reply = talk.begin_reply(ME, question.id, "m")
    assert watch() == (True, True)
    store.replies.append(reply.id, content="answer")
    store.replies.finish(reply.id, "stopped").result(10)
    assert watch() == (True, True)
    store.resume_reply(ME, talk.path(ME, reply.id)[-1])
    assert watch() == (True, True)
    store.replies.finish(reply.id, "complete").result(10)
    assert watch() == (True, True)
    talk.rename(ME, conversation, "another title")
    assert watch() == (True, True)
    talk.delete(ME, conversation)
    assert watch() == (True, True)
    assert changes(store.database, ME, conversation).conversation is None
    talk.restore(ME, conversation)
    assert watch() == (True, True)
    assert watch() == (False, False)


def test_what_is_done_to_others_changes_the_list_alone(store: Store) -> None:
    talk = store.conversations
    shown, other = talk.create(ME, "shown").id, talk.create(ME, "other").id
    watch = Watch(store, shown)
    nodes = [Message("1", "", None, "user", "question")]
    steps: list[Callable[[], object]] = [
        lambda: talk.create(ME, "new"),
        lambda: talk.add_tree(ME, "imported", nodes),
        lambda: talk.rename(ME, other, "renamed"),
        lambda: talk.delete(ME, other),
        lambda: (talk.restore(ME, other), talk.delete(ME, other)),
        lambda: (talk.delete(ME, talk.create(ME).id), talk.restore(ME, other)),
    ]
    for number, step in enumerate(steps):
        step()
        assert watch() == (True, False), number
    assert watch() == (False, False)


def test_a_reply_whose_process_died_is_seen_to_have_ended(store: Store) -> None:
    conversation = store.conversations.create(ME).id
    question = store.conversations.add_message(ME, conversation, None, "user", "question")
    reply = store.conversations.begin_reply(ME, question.id, "m")
    with store.database.write() as connection:
        connection.execute(sa.text("UPDATE messages SET owner = 1 WHERE id = :id"), {"id": reply.id})
    watch = Watch(store, conversation)
    assert mark_interrupted(store.database, store._ownership) == 1
    assert watch() == (True, True)


def test_a_new_title_moves_nothing_up_the_list(store: Store) -> None:
    first, second = store.conversations.create(ME, "first"), store.conversations.create(ME, "second")
    assert store.conversations.rename(ME, first.id, "renamed").updated == first.updated
    assert [each.id for each in store.conversations.list(ME).conversations] == [second.id, first.id]


def test_the_route(store: Store) -> None:
    browser = Browser(small_app(store, None))
    talk = browser.post("/api/conversations", json={"title": "a"}).json()["id"]
    before = browser.get("/api/changes").json()
    assert before["conversation"] is None
    shown = browser.get("/api/changes", params={"conversation": talk}).json()
    assert shown["list"] == before["list"]
    browser.patch(f"/api/conversations/{talk}", json={"title": "b"})
    after = browser.get("/api/changes", params={"conversation": talk}).json()
    assert (after["list"] != shown["list"], after["conversation"] != shown["conversation"]) == (True, True)
    assert browser.get("/api/changes", params={"conversation": "0" * 32}).json()["conversation"] is None
    assert browser.get("/api/changes", params={"conversation": "../x"}).status_code == 422


def test_of_other_accounts_nothing_is_told(store: Store) -> None:
    talk = store.conversations.create(ME)
    assert changes(store.database, "stranger", talk.id).conversation is None
    before = changes(store.database, "stranger")
    store.conversations.create(ME)
    assert changes(store.database, "stranger") == before


def test_it_is_read_from_indexes_alone(sqlite_store: Store) -> None:
    """Of an account with many conversations no row is touched, only the index."""
    store = sqlite_store
    statements: list[str] = []
    with store.database.read() as connection:
        engine = connection.engine

        def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            statements.append(statement)

        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            changes(store.database, ME, "x")
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
        plans = [
            "; ".join(
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {each}", ("x",) * each.count("?"))
            )
            for each in statements
            if each.startswith("SELECT")
        ]
    assert len(plans) == 2
    assert "COVERING INDEX ix_conversations_account_revision" in plans[0]
    assert plans[1].startswith("SEARCH conversations USING INDEX")

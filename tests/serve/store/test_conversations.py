"""Conversations as trees: listed, branched, removed, and seen by their account alone; on both databases."""

import time

import pytest
import sqlalchemy as sa

from millet.reasoning.reply import ToolCall
from millet.serve.errors import ApiError
from millet.serve.store import Message, Store
from tests.serve.store.rows import ME

ODD = "nul \0, half a pair \ud83d, 'quotes\" \\ % ; -- 🌾 中文"
STORED = "nul \ufffd, half a pair ?, 'quotes\" \\ % ; -- 🌾 中文"


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

"""Whole conversations imported at once: others go on meanwhile, and half of one is never seen; on both databases."""

import threading

import pytest

from millet.serve.errors import ApiError
from millet.serve.store import Message, Store
from millet.serve.store.words import split_words
from tests.serve.store.rows import ME


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

"""Search of history: words, also Chinese ones of two characters, in one's own messages alone; on both databases."""

import itertools
import random

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from millet.serve.store import Store
from millet.serve.store.search import parts
from millet.serve.store.words import phrases, split_words

ME = "local"


@pytest.fixture
def talk(store: Store) -> str:
    """A conversation's id."""
    return store.conversations.create(ME, "Erste Frage").id


def say(store: Store, talk: str, text: str) -> str:
    return store.conversations.add_message(ME, talk, None, "user", text).id


FOUND = [
    ("大型推理模型会先思考再回答", "推理"),
    ("大型推理模型会先思考再回答", "模型"),
    ("大型推理模型会先思考再回答", "推理模型"),
    ("大型推理模型会先思考再回答", "回答"),
    ("大型推理模型会先思考再回答", "答"),
    ("大型推理模型会先思考再回答", "大"),
    ("大型推理模型会先思考再回答", "思考 推理"),
    ("用Python编程很有趣", "Python"),
    ("用Python编程很有趣", "编程"),
    ("用Python编程很有趣", "python编程"),
    ("用Python编程很有趣", "用Python"),
    ("東京タワーは高い", "タワー"),
    ("한국어를 배운다", "한국"),
    ("The quick brown fox", "QUICK"),
    ("The quick brown fox", "fox the"),
    ("Café Ångström", "cafe angstrom"),
    ("ﾃﾞｰﾀ ＡＢＣ", "データ abc"),
    ("see example.com/path_to", "example.com/path_to"),
    ("don't stop", "don't"),
    ("हिन्दी में लिखा", "हिन्दी"),
    ("version 3.14 and C++", "3.14"),
    ("x" * 100, "x" * 100),
    ("一" + "𠀀𠀁" + "二", "𠀀𠀁"),
]

NOT_FOUND = [
    ("推理模型", "理推"),
    ("推理 模型", "理模"),
    ("推理，模型", "推理模型"),
    ("推理模型", "模型推理"),
    ("quick brown", "quickly"),
    ("quick brown", "qui"),
    ("quick brown", "brown.quick"),
    ("quick", "quick missing"),
    ("anything", "..."),
    ("anything", ""),
]

HOSTILE = [
    '"', "'", '"quick', "quick*", "NEAR(quick brown)", "words:quick", "quick AND", "-quick", "^quick", "(",
    "quick OR x", "!quick", "quick & | !", "quick:*", "<->", "\\", "\0", "\ud83d", "a" * 10_000, "a " * 5_000, "%",
    "' OR 1=1 --", "{}",
]  # fmt: skip


def test_found(store: Store, talk: str) -> None:
    said: dict[str, str] = {}
    for text, query in FOUND:
        message = said[text] = said.get(text) or say(store, talk, text)
        assert message in [hit.message for hit in store.search(ME, query)], (text, query)


def test_not_found(store: Store, talk: str) -> None:
    said: dict[str, str] = {}
    for text, query in NOT_FOUND:
        message = said[text] = said.get(text) or say(store, talk, text)
        assert message not in [hit.message for hit in store.search(ME, query)], (text, query)


def test_queries_are_never_syntax(store: Store, talk: str) -> None:
    say(store, talk, "quick brown")
    for query in HOSTILE:
        assert len(store.search(ME, query)) <= 1, query


def test_operators_are_words(store: Store, talk: str) -> None:
    say(store, talk, "quick brown")
    either = say(store, talk, "quick or slow")
    assert [hit.message for hit in store.search(ME, "quick OR")] == [either]


def test_random_text_is_found_by_its_pieces(store: Store, talk: str, seed: int) -> None:
    draw = random.Random(seed)
    alphabet = "模型推理思考回答ab é'\"*-:()&|!\\ 한カ𠀀9_\n"
    for _ in range(40):
        text = "".join(draw.choices(alphabet, k=30))
        message = say(store, talk, text)
        start = draw.randrange(29)
        # A piece that is cut inside a Latin word is another word.
        piece = text[start : start + 2]
        if all(ord(letter) > 0x3000 for letter in piece):
            assert message in {hit.message for hit in store.search(ME, piece, 100)}, (text, piece)
        store.search(ME, text)


def test_titles_are_found_by_their_newest_name(store: Store, talk: str) -> None:
    assert [(hit.conversation, hit.message) for hit in store.search(ME, "frage")] == [(talk, None)]
    store.conversations.rename(ME, talk, "Neuer Name")
    assert store.search(ME, "frage") == []
    assert [hit.title for hit in store.search(ME, "neuer name")] == ["Neuer Name"]


def test_a_reply_is_found_when_it_has_ended(store: Store, talk: str) -> None:
    reply = store.conversations.begin_reply(ME, say(store, talk, "question"), "m")
    store.replies.append(reply.id, reasoning="思考过程", content="答案在此")
    store.replies.finish(reply.id, "complete").result(10)
    assert [hit.message for hit in store.search(ME, "答案")] == [reply.id]
    assert store.search(ME, "思考") == []


def test_deletion_removes_hits_and_restoring_brings_them_back(store: Store, talk: str) -> None:
    say(store, talk, "推理")
    store.conversations.delete(ME, talk)
    assert store.search(ME, "推理") == []
    store.conversations.restore(ME, talk)
    assert len(store.search(ME, "推理")) == 1


def test_nobody_finds_what_another_account_wrote(store: Store, talk: str) -> None:
    say(store, talk, "secret 秘密")
    with store.database.write() as connection:
        row = {"no": False}
        insert = "INSERT INTO accounts (id, name, name_key, role, disabled, limits, created) "
        connection.execute(sa.text(insert + "VALUES ('other', 'o', 'o', 'admin', :no, '{}', 0)"), row)
    for query in ("secret", "秘密", "密", "Frage"):
        assert store.search("other", query) == []
        assert len(store.search(ME, query)) == 1


def test_newest_first_and_no_more_than_asked_for(store: Store, talk: str) -> None:
    said = [say(store, talk, f"word {number}") for number in range(5)]
    assert [hit.message for hit in store.search(ME, "word", limit=3)] == said[:1:-1]


def test_long_texts_are_searched_to_their_end(store: Store, talk: str, seed: int) -> None:
    draw = random.Random(seed)
    runs = ["".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(20_000)) for _ in range(5)]
    message = say(store, talk, "，".join(runs))
    for start in (0, 15_930, 15_990, 19_990):
        assert [hit.message for hit in store.search(ME, runs[3][start : start + 10])] == [message]


def test_the_snippet_shows_where(store: Store, talk: str) -> None:
    say(store, talk, "before " * 100 + "the needle lies here " + "after " * 100)
    snippet = store.search(ME, "needle")[0].snippet
    assert "the needle lies here" in snippet
    assert snippet.startswith("…")
    assert snippet.endswith("…")
    assert len(snippet) < 200


def test_marks_without_end_hold_up_nobody() -> None:
    """To sort so many would take Python hours."""
    assert split_words("e" + "\u0315" * 400_000 + "\u0316" * 400_000 + "nd") == ["end"]
    assert split_words("Ca" + "f" + "e\u0301") == ["cafe"]


def test_the_snippet_of_a_long_repetitive_text(store: Store, talk: str) -> None:
    say(store, talk, "a" * 1_000_000)
    (hit,) = store.search(ME, "a" * 199 + "b" + "c" * 700)
    assert hit.snippet == "a" * 160 + "…"


@pytest.mark.parametrize("word", ["a", "\U00020000" * 64])
def test_no_entry_is_too_large_for_postgresql(word: str) -> None:
    words = [f"{number:07}{word}" for number in range(40_000)]
    found = list(parts(words))
    assert all(sum(len(word.encode()) + 8 for word in part) < 2**20 and len(part) < 16_383 for part in found)
    assert found[0][0] == words[0]
    assert found[-1][-1] == words[-1]
    assert all(before[-64:] == after[:64] for before, after in itertools.pairwise(found))


def test_every_character_begins_a_word() -> None:
    assert split_words("推理模型 Ab_c型") == ["推理", "理模", "模型", "型", "ab", "c", "型"]
    assert phrases("推理模型 型 c型") == [(["推理", "理模", "模型"], False), (["型"], True), (["c", "型"], True)]


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_words_have_nothing_that_a_query_could_mean(text: str) -> None:
    for word in [*split_words(text), *(word for words, _ in phrases(text) for word in words)]:
        assert word
        assert not set(word) & set("'\"\\*:&|!()<>-^+{} \0\n\t")

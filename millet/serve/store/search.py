"""Full-text search of one account's history: SQLite's FTS5 or PostgreSQL's tsvector, given the same words.

A text is one entry or several: PostgreSQL counts positions to 16,383 and keeps at most 1 MB together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from millet.serve.store.database import Database
from millet.serve.store.records import Hit
from millet.serve.store.schema import conversations, messages, search_entries
from millet.serve.store.words import phrases, split_words

ENTRY = 16_000  # words of one entry
BYTES = 900_000  # of one entry, with eight for the place of each word
OVERLAP = 64  # words that are in two entries, so that a phrase is whole in one of them
LONGEST_QUERY = 200
SNIPPET = 160
LOOKED_AT = 100_000  # characters of a message in which the place for its snippet is looked for


def search(database: Database, account: str, query: str, limit: int = 20) -> list[Hit]:
    """The messages and titles that have all words of the query, newest first."""
    wanted = phrases(query[:LONGEST_QUERY])
    if not wanted:
        return []
    sqlite = database.is_sqlite
    matches = "search_words MATCH :query" if sqlite else "search_words.words @@ CAST(:query AS tsquery)"
    expression = _sqlite_query(wanted) if sqlite else _postgresql_query(wanted)
    entries, index = search_entries, sa.table("search_words", sa.column("rowid"))
    found = (
        sa.select(entries.c.conversation, entries.c.message, sa.func.max(entries.c.number).label("number"))
        .join(index, index.c.rowid == entries.c.number)
        .join(conversations, conversations.c.id == entries.c.conversation)
        .where(sa.text(matches).bindparams(query=expression))
        .where(conversations.c.account == account, conversations.c.deleted.is_(None))
        .group_by(entries.c.conversation, entries.c.message)
        .order_by(sa.desc("number"))
        .limit(limit)
        .subquery()
    )
    hits = (
        sa.select(conversations.c.id, conversations.c.title, conversations.c.created)
        .add_columns(messages.c.id.label("message"), messages.c.created.label("written"))
        .add_columns(sa.func.substr(messages.c.content, 1, LOOKED_AT).label("content"))
        .select_from(found)
        .join(conversations, conversations.c.id == found.c.conversation)
        .outerjoin(messages, messages.c.id == found.c.message)
        .order_by(found.c.number.desc())
    )
    with database.read() as connection:
        rows = connection.execute(hits).all()
    return [
        Hit(row.id, row.title, row.message, _snippet(row.content or row.title, query), row.written or row.created)
        for row in rows
    ]


def index_again(connection: sa.Connection, conversation: str, message: str | None, text: str) -> None:
    """Let the message, or the title, be found by this text alone."""
    of_message = search_entries.c.message.is_(None) if message is None else search_entries.c.message == message
    connection.execute(search_entries.delete().where(search_entries.c.conversation == conversation, of_message))
    index_text(connection, conversation, message, text)


def index_text(connection: sa.Connection, conversation: str, message: str | None, text: str) -> None:
    """Let the message, or where it is None the title, be found. Not found before."""
    index_words(connection, conversation, [(message, part) for part in parts(split_words(text))])


def index_words(
    connection: sa.Connection, conversation: str, entries: Sequence[tuple[str | None, Sequence[str]]]
) -> None:
    """Let messages be found by these words: a message, or None for the title, and what `parts` gave of its text."""
    if not entries:
        return
    insert = search_entries.insert().returning(search_entries.c.number, sort_by_parameter_order=True)
    rows = [{"conversation": conversation, "message": message} for message, _ in entries]
    numbers = connection.execute(insert, rows).scalars().all()
    sqlite = connection.dialect.name == "sqlite"
    value = ":words" if sqlite else "CAST(:words AS tsvector)"
    connection.execute(
        sa.text(f"INSERT INTO search_words (rowid, words) VALUES (:number, {value})"),
        [
            {"number": number, "words": " ".join(part) if sqlite else _tsvector(part)}
            for number, (_, part) in zip(numbers, entries, strict=True)
        ],
    )


def _tsvector(words: Sequence[str]) -> str:
    return " ".join(f"'{word}':{position}" for position, word in enumerate(words, 1))


def parts(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """What goes into one entry each."""
    start = end = 0
    while end < len(words):
        size = 0
        end = start
        while end < min(len(words), start + ENTRY) and size < BYTES:
            size += len(words[end].encode()) + 8
            end += 1
        yield words[start:end]
        start = end - OVERLAP


# Words are letters and digits alone, so quotes around them are all that the two languages need.


def _sqlite_query(wanted: list[tuple[list[str], bool]]) -> str:
    return " AND ".join(f'"{" ".join(words)}"{" *" if beginning else ""}' for words, beginning in wanted)


def _postgresql_query(wanted: list[tuple[list[str], bool]]) -> str:
    return " & ".join(
        "(" + " <-> ".join(f"'{word}'" for word in words) + (":*" if beginning else "") + ")"
        for words, beginning in wanted
    )


def _snippet(text: str, query: str) -> str:
    lowered = text.lower()  # and not a search that ignores case, which takes length times length
    places = [lowered.find(stretch.lower()) for stretch in query[:LONGEST_QUERY].split()]
    first = min((place for place in places if place >= 0), default=0)
    start = max(0, first - SNIPPET // 3)
    piece = " ".join(text[start : start + SNIPPET].split())
    return ("…" if start else "") + piece + ("…" if start + SNIPPET < len(text) else "")

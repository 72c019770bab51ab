"""The store as a whole: opened, migrated, swept, and shared by processes; on both databases."""

import subprocess
import sys
import time

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from millet.serve.errors import ApiError
from millet.serve.store import Store, StoreError
from millet.serve.store.schema import metadata
from millet.serve.store.store import KEPT
from tests.serve.store.rows import ME, begin


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

"""The database under the store: what it promises, who waits for whom, and errors in one line; on both kinds."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from millet.serve.errors import ApiError
from millet.serve.store import Store, StoreError
from millet.serve.store.database import Database
from millet.serve.store.schema import metadata
from tests.serve import postgresql
from tests.serve.store.rows import ME


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

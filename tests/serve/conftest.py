"""Fixtures of the server's tests: each test that uses a database runs with SQLite and with PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from millet.serve.store import Store
from millet.serve.store.schema import metadata
from tests.serve import postgresql

KINDS = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """An administrator's URL; skips where there is no PostgreSQL."""
    if reason := postgresql.why_not():
        pytest.skip(reason)
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own, in which there is nothing yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/millet.db"
        return
    with postgresql.database(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('store')}/millet.db") as store:
        yield store


@pytest.fixture(scope="session")
def postgresql_store(postgresql_server: str) -> Iterator[Store]:
    with postgresql.database(postgresql_server) as url, Store.open(url) as store:
        yield store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    """As just opened for the first time. Opening and migrating takes long, so the tests share one, wiped."""
    store: Store = request.getfixturevalue(f"{request.param}_store")
    with store.database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            others = table.c.id != "local" if table.name == "accounts" else sa.true()
            connection.execute(table.delete().where(others))
        accounts = metadata.tables["accounts"]
        local = {"name": "local", "name_key": "local", "password_hash": None, "role": "admin", "disabled": False}
        connection.execute(accounts.update().values(**local, limits={}, balance=None))
    return store

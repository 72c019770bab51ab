"""Fixtures of the server's tests: each test that uses a database runs with SQLite and with PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from millet.serve.store import Store
from tests.serve import postgresql


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """An administrator's URL; skips where there is no PostgreSQL."""
    if reason := postgresql.why_not():
        pytest.skip(reason)
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/millet.db"
        return
    with postgresql.database(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as store:
        yield store

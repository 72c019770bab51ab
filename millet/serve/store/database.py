"""The database: SQLite or PostgreSQL, opened, brought up to date, and used in transactions.

All calls block. On the server they run in threads, never on the event loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from millet.errors import MilletError
from millet.serve.errors import ApiError

BUSY = 30  # seconds that SQLite waits for another process that writes
KEPT_CONNECTIONS = 8  # also while none is needed
CONNECTIONS = 56  # at most: more than there are threads that may want one at once
POOL_TIMEOUT = 5.0  # seconds that a thread waits for a connection where all are in use
MIGRATION_LOCK = 0x6D696C6C6574  # "millet": the key of PostgreSQL's advisory lock


class StoreError(MilletError):
    """The database cannot be opened or used."""


class Database:
    """A database at the newest schema. Threads may share it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        # SQLite lets one writer in at a time. In one process a lock is fairer and quicker than its polling.
        self._turn: Any = threading.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, url: str) -> Database:
        """sqlite:///path or postgresql://user@host/name. Creates and migrates it. Raises StoreError."""
        engine = _connectable(url)
        try:
            database = cls(engine)
            database._migrate()
        except DatabaseError as error:
            engine.dispose()
            raise StoreError(f"{_shown(engine)} cannot be opened: {_first_line(error)}; check the URL") from error
        except BaseException:
            engine.dispose()
            raise
        return database

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @property
    def path(self) -> Path:
        """SQLite's file."""
        return Path(self.engine.url.database or "")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of everything. Raises ApiError 503 where all connections are in use."""
        with self._connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on disk when the block ends, or has not happened where it raises. Raises as `read`
        does."""
        with self._turn, self._connect() as connection:
            connection.execution_options(millet_writes=True)
            with connection.begin():
                yield connection

    def why_not(self) -> str | None:
        """None when it answers, else one line."""
        try:
            with self.read() as connection:
                connection.execute(sa.text("SELECT 1"))
        except DatabaseError as error:
            return _first_line(error)
        except ApiError as error:
            return str(error)
        return None

    def close(self) -> None:
        self.engine.dispose()

    def _connect(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except PoolTimeout as error:
            raise ApiError(503, "the database is busy; try again soon", code="busy", retry_after=5) from error

    def _migrate(self) -> None:
        """Two processes that start at once take turns: SQLite's write transaction and PostgreSQL's lock see to it."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            if newer := set(MigrationContext.configure(connection).get_current_heads()) - known:
                raise StoreError(
                    f"{_shown(self.engine)} was written by a newer Millet (schema {min(newer)}); "
                    "upgrade Millet, or give another database"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _connectable(url: str) -> sa.Engine:
    # Errors name the statement alone: its parameters are what people wrote, and errors are logged.
    common: dict[str, Any] = {
        "pool_size": KEPT_CONNECTIONS,
        "max_overflow": CONNECTIONS - KEPT_CONNECTIONS,
        "pool_timeout": POOL_TIMEOUT,
        "hide_parameters": True,
    }
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername == "postgresql+psycopg":
            return sa.create_engine(parsed, **common, pool_pre_ping=True)
        if parsed.drivername != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise StoreError(
                "the database's URL must be sqlite:///path/to/file or postgresql://user:password@host/name; correct it"
            )
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError("the database's URL cannot be read; write sqlite:///path or postgresql://host/name") from error
    _create_private(Path(parsed.database))
    engine = sa.create_engine(parsed, **common)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_private(path: Path) -> None:
    """The file belongs to its owner alone: it holds what people wrote."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}; check the path and its permissions") from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, and include changes of the schema
    for pragma in (
        f"busy_timeout = {BUSY * 1000}",
        "journal_mode = WAL",  # readers and the writer do not wait for each other
        # A commit is on disk also after a power cut. It costs one sync each, and commits are few: replies under way
        # share two a second.
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that read first and then wants to write may fail at once; one that says so at first just waits.
    writes = connection.get_execution_options().get("millet_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _shown(engine: sa.Engine) -> str:
    """Without its password."""
    return engine.url.render_as_string(hide_password=True)


def _first_line(error: DatabaseError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0].rstrip(".")

"""Which process writes which replies, so that those of a dead process can be told from those under way elsewhere.

A process holds a lock under its own random number for as long as it lives. The kernel or PostgreSQL takes the lock
back when the process is gone, however it went; so who gets another's lock knows that its holder is no more.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from millet.serve.store.database import Database


class Ownership:
    """A process's hold on the replies it writes. number: what they are marked with."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.number = secrets.randbelow(2**63)
        self._file: int | None = None
        self._connection: sa.Connection | None = None
        if database.is_sqlite:
            self._file = self._lock_file()
        else:
            self._connection = self._lock_number()

    def renew(self) -> None:
        """Take the lock again where PostgreSQL has lost the connection that held it."""
        if self._connection is None:
            return
        try:
            self._connection.execute(sa.select(1))
        except DBAPIError:
            self._connection.invalidate()
            self._connection.close()
            self._connection = self._lock_number()

    def remove_files(self) -> None:
        """Those of SQLite's dead processes, also of such as left no reply."""
        if self._file is not None:
            for path in self._database.path.parent.glob(f"{glob.escape(self._database.path.name)}-owner-*"):
                self.is_gone(int(path.name.rpartition("-")[2], 16))

    def is_gone(self, number: int) -> bool:
        """Whether the process with this number has ended."""
        if number == self.number:
            return False
        if self._connection is not None:
            if not self._connection.execute(sa.select(sa.func.pg_try_advisory_lock(number))).scalar_one():
                return False
            self._connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
            return True
        try:
            with open(self._path(number), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._path(number).unlink(missing_ok=True)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self._file is not None:
            self._path(self.number).unlink(missing_ok=True)
            os.close(self._file)
        if self._connection is not None:
            self._connection.invalidate()  # the lock ends with the connection, also where PostgreSQL does not answer
            self._connection.close()

    def _lock_file(self) -> int:
        path = self._path(self.number)
        while True:
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                return file
            os.close(file)  # another process took it for a dead one's before it was locked

    def _lock_number(self) -> sa.Connection:
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.select(sa.func.pg_advisory_lock(self.number)))
        return connection

    def _path(self, number: int) -> Path:
        path = self._database.path
        return path.with_name(f"{path.name}-owner-{number:x}")

"""Browser sessions, kept by the server: the browser has a random token in a cookie, and may be signed out any time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from millet.serve.store.database import Database
from millet.serve.store.schema import sessions
from millet.serve.tokens import digest, new_token

LIFETIME = 30 * 86400.0  # seconds
SEEN_EVERY = 60.0  # seconds between updates of `last_seen`


@dataclass(frozen=True, slots=True)
class Session:
    """token: the cookie's value, known to nobody else. csrf: what requests that change something must send as a header,
    which pages of other sites cannot read."""

    token: str
    csrf: str
    expires: float


class Sessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, account: str) -> Session:
        now = time.time()
        session = Session(new_token(), new_token(), now + LIFETIME)
        with self._database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.expires < now))
            connection.execute(
                sessions.insert().values(
                    token_hash=digest(session.token),
                    account=account,
                    csrf=session.csrf,
                    created=now,
                    expires=session.expires,
                    last_seen=now,
                )
            )
        return session

    def find(self, token: str) -> tuple[str, str] | None:
        """The account and the CSRF token."""
        now = time.time()
        of_token = sessions.c.token_hash == digest(token)
        query = sa.select(sessions.c.account, sessions.c.csrf, sessions.c.last_seen)
        with self._database.read() as connection:
            row = connection.execute(query.where(of_token, sessions.c.expires > now)).one_or_none()
        if row is None:
            return None
        if row.last_seen < now - SEEN_EVERY:
            with self._database.write() as connection:
                connection.execute(sessions.update().where(of_token).values(last_seen=now))
        return row.account, row.csrf

    def end(self, token: str) -> None:
        with self._database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.token_hash == digest(token)))


def end_sessions(connection: sa.Connection, account: str, but: str | None = None) -> None:
    """All of an account. but: the token of one that goes on."""
    ended = sessions.delete().where(sessions.c.account == account)
    if but is not None:
        ended = ended.where(sessions.c.token_hash != digest(but))
    connection.execute(ended)

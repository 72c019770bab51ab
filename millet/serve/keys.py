"""API keys: shown once, kept as their hash."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from millet.serve.caller import Limits
from millet.serve.errors import ApiError
from millet.serve.store.database import Database
from millet.serve.store.records import clean, new_id
from millet.serve.store.schema import accounts, api_keys
from millet.serve.tokens import digest, new_token, same

PREFIX = "mk-"
SHOWN = 8  # characters of the secret that are kept, for people to tell their keys apart
USED_EVERY = 60.0  # seconds between updates of `last_used`
MOST = 100  # keys of one account


@dataclass(frozen=True, slots=True)
class Key:
    """prefix: how the secret begins. limits: what this key may use of what its account may."""

    id: str
    name: str
    prefix: str
    limits: Limits
    created: float
    last_used: float | None
    revoked: float | None


@dataclass(frozen=True, slots=True)
class OwnedKey(Key):
    """account: the id; account_name: what it signs in with."""

    account: str
    account_name: str


Some = TypeVar("Some", bound=Key)
_KEY = [api_keys.c[f.name] for f in fields(Key)]


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, account: str, name: str, limits: Limits) -> tuple[Key, str]:
        """The key and its secret, which nobody can see again."""
        secret = PREFIX + new_token()
        key = Key(new_id(), clean(name), secret[: len(PREFIX) + SHOWN], limits, time.time(), None, None)
        with self._database.write() as connection:
            valid = sa.and_(api_keys.c.account == account, api_keys.c.revoked.is_(None))
            if connection.execute(sa.select(sa.func.count()).where(valid)).scalar_one() >= MOST:
                raise ApiError(409, f"an account has {MOST} keys at most; revoke one that is not used")
            connection.execute(api_keys.insert().values(account=account, secret_hash=digest(secret), **asdict(key)))
        return key, secret

    def list(self, account: str) -> Sequence[Key]:
        """Newest first, revoked ones too: their usage goes on to be shown."""
        query = sa.select(*_KEY).where(api_keys.c.account == account).order_by(api_keys.c.created.desc())
        with self._database.read() as connection:
            return [_made(Key, row) for row in connection.execute(query)]

    def list_all(self) -> Sequence[OwnedKey]:
        """Of all accounts, as `list`."""
        query = sa.select(*_KEY, api_keys.c.account, accounts.c.name.label("account_name")).join(accounts)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(api_keys.c.created.desc()))
            return [_made(OwnedKey, row) for row in rows]

    def revoke(self, account: str | None, key: str) -> None:
        """For good. account: whose it must be; None: anybody's. Raises ApiError 404."""
        valid = sa.and_(api_keys.c.id == key, api_keys.c.revoked.is_(None))
        if account is not None:
            valid &= api_keys.c.account == account
        with self._database.write() as connection:
            if not connection.execute(api_keys.update().where(valid).values(revoked=time.time())).rowcount:
                raise ApiError(404, "there is no such key, or it is revoked already", code="key_not_found")

    def find(self, secret: str) -> tuple[str, Key] | None:
        """The account and the key, where it is valid."""
        hashed, now = digest(secret), time.time()
        query = sa.select(*_KEY, api_keys.c.account, api_keys.c.secret_hash).where(
            api_keys.c.secret_hash == hashed, api_keys.c.revoked.is_(None)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or not same(row.secret_hash, hashed):
            return None
        if (row.last_used or 0.0) < now - USED_EVERY:
            with self._database.write() as connection:
                connection.execute(api_keys.update().where(api_keys.c.id == row.id).values(last_used=now))
        return row.account, _made(Key, row)


def _made(kind: type[Some], row: Any) -> Some:
    values = {f.name: row._mapping[f.name] for f in fields(kind)}
    return kind(**values | {"limits": Limits(**values["limits"])})

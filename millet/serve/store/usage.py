"""What each account has used, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from millet.reasoning.reply import Usage
from millet.serve.caller import Caller
from millet.serve.store.database import Database
from millet.serve.store.schema import accounts, usage

DAY = 86400


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Of one account, day, model and key. day: ISO date, UTC. key: None outside the API. cost: in the currency of the
    configured prices."""

    account: str
    day: str
    model: str
    key: str | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: float


class UsageLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, caller: Caller, model: str, used: Usage, cost: float) -> None:
        """One reply. An account with a balance pays from it."""
        now = time.time()
        row = {
            "account": caller.account,
            "key": caller.key,
            "model": model,
            "day": int(now // DAY),
            "time": now,
            "prompt_tokens": used.prompt_tokens,
            "cached_tokens": used.cached_tokens,
            "completion_tokens": used.completion_tokens,
            "reasoning_tokens": used.reasoning_tokens,
            "cost": cost,
        }
        with self._database.write() as connection:
            connection.execute(usage.insert().values(**row))
            paying = sa.and_(accounts.c.id == caller.account, accounts.c.balance.is_not(None))
            connection.execute(accounts.update().where(paying).values(balance=accounts.c.balance - cost))

    def spent_today(self, account: str, key: str | None = None) -> float:
        """Since midnight, UTC: of one key, or of the account with all its keys."""
        query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.cost), 0.0)).where(
            usage.c.account == account, usage.c.day == int(time.time() // DAY)
        )
        if key is not None:
            query = query.where(usage.c.key == key)
        with self._database.read() as connection:
            return float(connection.execute(query).scalar_one())

    def report(self, account: str | None, days: int) -> Sequence[UsageRow]:
        """The last days, today included, newest first. account: None for all."""
        sums = [
            sa.func.sum(usage.c[name])
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost")
        ]
        groups = [usage.c.account, usage.c.day, usage.c.model, usage.c.key]
        query = (
            sa.select(*groups, sa.func.count(), *sums)
            .where(usage.c.day > int(time.time() // DAY) - days)
            .group_by(*groups)
            .order_by(usage.c.day.desc(), usage.c.account, usage.c.model, usage.c.key)
        )
        if account is not None:
            query = query.where(usage.c.account == account)
        with self._database.read() as connection:
            return [UsageRow(account, _date(day), *rest) for account, day, *rest in connection.execute(query)]


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))

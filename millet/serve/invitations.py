"""Links that let somebody in: to make an account, or to set the name and password of one. Each works once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from millet.serve.caller import Role
from millet.serve.errors import ApiError
from millet.serve.store.database import Database
from millet.serve.store.records import new_id
from millet.serve.store.schema import invitations
from millet.serve.tokens import digest, new_token

INVITED = 7 * 86400.0  # seconds that a link to a new account works
RESET = 86400.0  # and one to an account that is there


@dataclass(frozen=True, slots=True)
class Invitation:
    """One that is open. account: whose password it sets; None makes a new account."""

    id: str
    role: Role
    account: str | None
    created: float
    expires: float


class Invitations:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, role: Role, account: str | None = None) -> tuple[Invitation, str]:
        """The invitation and its token, which nobody can see again."""
        now, token = time.time(), new_token()
        invitation = Invitation(new_id(), role, account, now, now + (INVITED if account is None else RESET))
        with self._database.write() as connection:
            connection.execute(
                invitations.insert().values(
                    id=invitation.id,
                    token_hash=digest(token),
                    role=role,
                    account=account,
                    created=now,
                    expires=invitation.expires,
                )
            )
        return invitation, token

    def list(self) -> Sequence[Invitation]:
        table = invitations
        query = (
            sa.select(table.c.id, table.c.role, table.c.account, table.c.created, table.c.expires)
            .where(table.c.used_by.is_(None), table.c.expires > time.time())
            .order_by(table.c.created.desc())
        )
        with self._database.read() as connection:
            return [Invitation(*row) for row in connection.execute(query)]

    def revoke(self, invitation: str) -> None:
        """Raises ApiError 404."""
        unused = sa.and_(invitations.c.id == invitation, invitations.c.used_by.is_(None))
        with self._database.write() as connection:
            if not connection.execute(invitations.delete().where(unused)).rowcount:
                raise ApiError(404, "there is no such invitation, or it was used", code="invitation_not_found")


def find_invitation(connection: sa.Connection, token: str) -> Invitation:
    """An open one. Raises ApiError 404."""
    table = invitations
    query = sa.select(table.c.id, table.c.role, table.c.account, table.c.created, table.c.expires).where(
        table.c.token_hash == digest(token), table.c.used_by.is_(None), table.c.expires > time.time()
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _used()
    return Invitation(*row)


def use_invitation(connection: sa.Connection, invitation: Invitation, account: str) -> None:
    """Raises ApiError 404 where somebody was quicker. Other links to the account work no more."""
    unused = sa.and_(invitations.c.id == invitation.id, invitations.c.used_by.is_(None))
    if not connection.execute(invitations.update().where(unused).values(used_by=account)).rowcount:
        raise _used()
    others = sa.and_(invitations.c.account == account, invitations.c.id != invitation.id)
    connection.execute(invitations.delete().where(others))


def _used() -> ApiError:
    return ApiError(
        404, "this link was used, is too old, or is not whole; ask an administrator for another", code="invitation_used"
    )

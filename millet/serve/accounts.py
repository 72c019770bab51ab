"""Accounts: who may come in, as whom, and what they may use."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from millet.reasoning.reply import Usage
from millet.serve.caller import LOCAL, Caller, Limits, Role
from millet.serve.errors import ApiError
from millet.serve.invitations import Invitation, Invitations, find_invitation, use_invitation
from millet.serve.keys import Keys
from millet.serve.passwords import hash_password, is_outdated, is_password
from millet.serve.sessions import Session, Sessions, end_sessions
from millet.serve.store.records import clean, new_id
from millet.serve.store.schema import accounts
from millet.serve.store.store import Store
from millet.serve.throttle import Throttle
from millet.serve.tokens import same

LONGEST_NAME = 254  # of an e-mail address
READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Account:
    """name: what its person signs in with, such as an e-mail address. limits: its own; None where the server's default
    holds. balance: prepaid money; None where nothing is prepaid."""

    id: str
    name: str
    role: Role
    disabled: bool
    limits: Limits
    balance: float | None
    created: float


_ACCOUNT = [accounts.c[f.name] for f in fields(Account)]
_CAN_ADMINISTER = sa.and_(
    accounts.c.role == "admin", accounts.c.disabled.is_(False), accounts.c.password_hash.is_not(None)
)


class Accounts:
    """limits: of accounts that have none of their own. All calls block; those that check a password (`login`, `accept`,
    `change_password`) belong into `passwords.Slots`."""

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self._database = store.database
        self._limits = limits or Limits()
        self._throttle = Throttle()
        self.sessions = Sessions(store.database)
        self.keys = Keys(store.database)
        self.invitations = Invitations(store.database)

    def authenticate(self, bearer: str | None, cookie: str | None, csrf: str | None, method: str) -> Caller:
        """bearer: an API key, which goes before a session; cookie: a session's token; csrf: the header that a session's
        requests need where they change something. Raises ApiError 401 and 403."""
        if bearer is not None:
            found = self.keys.find(bearer)
            if found is None:
                raise ApiError(401, "the API key is not valid; make one in the settings", code="invalid_api_key")
            account = self.enabled(found[0])
            own = narrowest(account.limits, found[1].limits)
            return Caller(account.id, account.role, found[1].id, own, account.limits)
        session = None if cookie is None else self.sessions.find(cookie)
        if session is None:
            raise ApiError(
                401, "who asks? Send an API key (Authorization: Bearer mk-...), or sign in", code="not_signed_in"
            )
        if method not in READING and not same(csrf or "", session[1]):
            raise ApiError(
                403, "the X-CSRF-Token header is missing or not this session's; load the page again", code="csrf"
            )
        account = self.enabled(session[0])
        return Caller(account.id, account.role, None, account.limits)

    def login(self, name: str, password: str, address: str) -> tuple[Account, Session]:
        """address: where it comes from. Raises ApiError 401, 403, and 429 after too many failures."""
        key = _name_key(name)
        self._throttle.begin(key, address)
        query = sa.select(accounts.c.id, accounts.c.password_hash).where(accounts.c.name_key == key)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if not is_password(password, row and row.password_hash) or row is None:
            raise ApiError(401, "the name or the password is wrong; try again", code="wrong_password")
        self._throttle.succeeded(key, address)
        account = self.enabled(row.id)
        if is_outdated(row.password_hash):
            self._update(row.id, password_hash=hash_password(password))
        return account, self.sessions.begin(row.id)

    def change_password(self, account: str, old: str, new: str, address: str, session: str | None) -> None:
        """Ends the account's sessions, but for the one with this token. Raises ApiError 401, 422, 429."""
        with self._database.read() as connection:
            query = sa.select(accounts.c.name_key, accounts.c.password_hash).where(accounts.c.id == account)
            row = connection.execute(query).one()
        self._throttle.begin(row.name_key, address)
        if not is_password(old, row.password_hash):
            raise ApiError(401, "the old password is wrong; try again", param="old", code="wrong_password")
        self._throttle.succeeded(row.name_key, address)
        hashed = hash_password(new)
        with self._database.write() as connection:
            connection.execute(accounts.update().where(accounts.c.id == account).values(password_hash=hashed))
            end_sessions(connection, account, but=session)

    def first_token(self) -> str | None:
        """A link's token for whoever is to be the first administrator; None where there is one. They take over the
        account of one-person mode, and with it its conversations."""
        with self._database.read() as connection:
            if connection.execute(sa.select(accounts.c.id).where(_CAN_ADMINISTER).limit(1)).first():
                return None
        return self.invitations.create("admin", LOCAL.account)[1]

    def invite(self, role: Role) -> tuple[Invitation, str]:
        return self.invitations.create(role)

    def reset(self, account: str) -> tuple[Invitation, str]:
        """A link for somebody who forgot the password. Raises ApiError 404."""
        return self.invitations.create(self.get(account).role, account)

    def accept(self, token: str, name: str | None, password: str) -> tuple[Account, Session]:
        """What a link is for. name: of a new account; one that is there keeps its own where it is None. Raises ApiError
        404 for a link that does not work, 409 for a name that is taken, 422."""
        with self._database.read() as connection:
            find_invitation(connection, token)  # before any time goes into a hash
        if name is not None:
            _check_name(name)
        named = {} if name is None else {"name": name, "name_key": _name_key(name)}
        hashed = hash_password(password)
        try:
            with self._database.write() as connection:
                invitation = find_invitation(connection, token)
                account = invitation.account or self._insert(connection, invitation.role, named)
                values = {**named, "password_hash": hashed}
                connection.execute(accounts.update().where(accounts.c.id == account).values(**values))
                use_invitation(connection, invitation, account)
                end_sessions(connection, account)
        except IntegrityError:
            raise ApiError(409, "this name is taken; choose another", param="name", code="name_taken") from None
        return self.enabled(account), self.sessions.begin(account)

    def get(self, account: str) -> Account:
        """Raises ApiError 404."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_ACCOUNT).where(accounts.c.id == account)).one_or_none()
        if row is None:
            raise _no_account()
        return _account(row)

    def enabled(self, account: str) -> Account:
        """With the limits that hold for it. Raises ApiError 403 where it is disabled, 404."""
        found = self.get(account)
        if found.disabled:
            raise ApiError(403, "this account is disabled; ask an administrator", code="account_disabled")
        return self._effective(found)

    def list(self) -> Sequence[Account]:
        with self._database.read() as connection:
            return [_account(row) for row in connection.execute(sa.select(*_ACCOUNT).order_by(accounts.c.name_key))]

    def update(self, account: str, **changes: Any) -> Account:
        """changes: of `role`, `disabled`, `limits`, `balance`. Raises ApiError 404, and 409 where it would leave no
        administrator."""
        if isinstance(changes.get("limits"), Limits):
            changes["limits"] = asdict(changes["limits"])
        with self._database.write() as connection:
            administrators = sa.select(accounts.c.id).where(_CAN_ADMINISTER).with_for_update()
            before = connection.execute(administrators).all()
            of_account = accounts.c.id == account
            if changes and not connection.execute(accounts.update().where(of_account).values(**changes)).rowcount:
                raise _no_account()
            if before and not connection.execute(administrators).all():
                raise ApiError(409, "this is the last administrator; make another one first", code="last_administrator")
            if changes.get("disabled"):
                end_sessions(connection, account)
        return self.get(account)

    def balance(self, account: str) -> float | None:
        """Prepaid money that is left; None where nothing is prepaid."""
        return self.get(account).balance

    def record_usage(self, caller: Caller, model: str, usage: Usage, cost: float) -> None:
        """One reply; the account's balance pays for it."""
        self._store.usage.record(caller, model, usage, cost)

    def spent_today(self, account: str, key: str | None = None) -> float:
        """Since midnight, UTC: of one key, or of the account with all its keys."""
        return self._store.usage.spent_today(account, key)

    def _effective(self, account: Account) -> Account:
        own, default = asdict(account.limits), asdict(self._limits)
        limits = Limits(**{name: default[name] if value is None else value for name, value in own.items()})
        return replace(account, limits=limits)

    def _insert(self, connection: sa.Connection, role: Role, named: dict[str, str]) -> str:
        if not named:
            raise ApiError(422, "a new account needs a name", param="name")
        row = {"id": new_id(), "role": role, "disabled": False, "limits": asdict(Limits()), "created": time.time()}
        connection.execute(accounts.insert().values(**row, **named))
        return str(row["id"])

    def _update(self, account: str, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(accounts.update().where(accounts.c.id == account).values(**values))


def narrowest(account: Limits, key: Limits) -> Limits:
    """A key's limits can only narrow its account's."""
    pairs = zip(asdict(account).items(), asdict(key).values(), strict=True)
    return Limits(**{name: min((v for v in (own, keys) if v is not None), default=None) for (name, own), keys in pairs})


def _account(row: sa.Row[Any]) -> Account:
    return Account(**dict(row._mapping) | {"limits": Limits(**row.limits)})


def _name_key(name: str) -> str:
    """Names that look alike are the same."""
    return unicodedata.normalize("NFKC", clean(name).strip()).casefold()


def _check_name(name: str) -> None:
    if not 0 < len(name.strip()) <= LONGEST_NAME or not name.isprintable() or not _name_key(name):
        raise ApiError(
            422, f"a name has 1 to {LONGEST_NAME} characters, none of them invisible; choose another", param="name"
        )


def _no_account() -> ApiError:
    return ApiError(404, "there is no such account; load the list again", code="account_not_found")

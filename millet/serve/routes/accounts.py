"""Accounts: signing in, invitations, API keys, usage, and what administrators do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from millet.serve.accounts import Account, Accounts
from millet.serve.caller import Caller, Limits, Role
from millet.serve.config import Prices
from millet.serve.dependencies import COOKIE, get_accounts, get_admin, get_caller, get_person, get_store
from millet.serve.invitations import Invitation
from millet.serve.keys import Key
from millet.serve.passwords import Slots
from millet.serve.sessions import LIFETIME, Session
from millet.serve.store import Store
from millet.serve.store.records import ID
from millet.serve.store.usage import UsageRow

router = APIRouter(prefix="/api", tags=["accounts"])
slots = Slots()

CallerNow = Annotated[Caller, Depends(get_caller)]
Person = Annotated[Caller, Depends(get_person)]
Admin = Annotated[Caller, Depends(get_admin)]
AccountsNow = Annotated[Accounts, Depends(get_accounts)]
StoreNow = Annotated[Store, Depends(get_store)]
Id = Annotated[str, Path(pattern=ID)]
Days = Annotated[int, Query(ge=1, le=366)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Money = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Password = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=1000)]


class Body(BaseModel):
    """A misspelt limit must not pass for none."""

    model_config = ConfigDict(extra="forbid")


class Credentials(Body):
    name: Name
    password: Password


class Acceptance(Body):
    """token: the invitation link's. name: of a new account; one that is there keeps its own where it is null."""

    token: Annotated[str, Field(max_length=200)]
    name: Name | None = None
    password: Password


class PasswordChange(Body):
    old: Password
    new: Password


class GivenLimits(Body):
    """Null sets no limit. spend_per_day: in the currency of the configured prices, in UTC days."""

    concurrency: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    spend_per_day: Money | None = None


class NewKey(Body):
    """limits: narrower than the account's, where they are given."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    limits: GivenLimits = GivenLimits()


class NewInvitation(Body):
    role: Role = "member"


class AccountChange(Body):
    """What is left out stays, of the limits too. balance: prepaid money, null where nothing is prepaid."""

    role: Role = "member"
    disabled: bool = False
    limits: GivenLimits = GivenLimits()
    balance: Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)] | None = None


class Me(BaseModel):
    """one_person: this server has no accounts. csrf: what the X-CSRF-Token header of this session's changing requests
    must be; null without a session. currency: of costs, balances and limits of spending; null where nothing costs
    anything."""

    account: Account | None
    role: Role
    one_person: bool
    csrf: str | None
    currency: str | None


class CreatedKey(BaseModel):
    """secret: shown this once."""

    key: Key
    secret: str


class CreatedInvitation(BaseModel):
    """token: the link's, shown this once."""

    invitation: Invitation
    token: str


@router.post("/login")
async def login(body: Credentials, request: Request, response: Response, accounts: AccountsNow) -> Me:
    """Begins a session, with a cookie."""
    account, session = await slots.run(accounts.login, body.name, body.password, _address(request))
    return _begin(request, response, account, session)


@router.post("/logout", status_code=204)
def logout(request: Request, response: Response, person: Person, accounts: AccountsNow) -> None:
    """Ends this session."""
    accounts.sessions.end(request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)


@router.get("/account")
def get_account(request: Request, caller: CallerNow) -> Me:
    """Who asks."""
    accounts: Accounts | None = request.app.state.accounts
    if accounts is None:
        return Me(account=None, role=caller.role, one_person=True, csrf=None, currency=_currency(request))
    session = accounts.sessions.find(request.cookies.get(COOKIE, "")) if caller.key is None else None
    account = accounts.enabled(caller.account)
    csrf = session and session[1]
    return Me(account=account, role=caller.role, one_person=False, csrf=csrf, currency=_currency(request))


@router.post("/account/password", status_code=204)
async def change_password(body: PasswordChange, request: Request, person: Person, accounts: AccountsNow) -> None:
    """Ends all other sessions."""
    session = request.cookies.get(COOKIE)
    await slots.run(accounts.change_password, person.account, body.old, body.new, _address(request), session)


@router.get("/keys")
def list_keys(person: Person, accounts: AccountsNow) -> Sequence[Key]:
    """This account's API keys, newest first, revoked ones too."""
    return accounts.keys.list(person.account)


@router.post("/keys", status_code=201)
def create_key(body: NewKey, person: Person, accounts: AccountsNow) -> CreatedKey:
    """An API key. Its secret is never shown again."""
    key, secret = accounts.keys.create(person.account, body.name, _limits(body.limits))
    return CreatedKey(key=key, secret=secret)


@router.delete("/keys/{key}", status_code=204)
def revoke_key(key: Id, person: Person, accounts: AccountsNow) -> None:
    """For good."""
    accounts.keys.revoke(person.account, key)


@router.get("/usage")
def get_usage(caller: CallerNow, store: StoreNow, days: Days = 30) -> Sequence[UsageRow]:
    """This account's, by day, model and key."""
    return store.usage.report(caller.account, days)


@router.get("/invitations")
def list_invitations(admin: Admin, accounts: AccountsNow) -> Sequence[Invitation]:
    """Those that can still be used."""
    return accounts.invitations.list()


@router.post("/invitations", status_code=201)
def invite(body: NewInvitation, admin: Admin, accounts: AccountsNow) -> CreatedInvitation:
    """A link to a new account; it works once, within 7 days."""
    invitation, token = accounts.invite(body.role)
    return CreatedInvitation(invitation=invitation, token=token)


@router.post("/invitations/accept")
async def accept_invitation(body: Acceptance, request: Request, response: Response, accounts: AccountsNow) -> Me:
    """Makes the account, or sets the password of the one that the link is for, and begins a session."""
    account, session = await slots.run(accounts.accept, body.token, body.name, body.password)
    return _begin(request, response, account, session)


@router.delete("/invitations/{invitation}", status_code=204)
def revoke_invitation(invitation: Id, admin: Admin, accounts: AccountsNow) -> None:
    """The link works no more."""
    accounts.invitations.revoke(invitation)


@router.get("/admin/accounts")
def list_accounts(admin: Admin, accounts: AccountsNow) -> Sequence[Account]:
    """All accounts, by name."""
    return accounts.list()


@router.patch("/admin/accounts/{account}")
def change_account(account: Id, body: AccountChange, admin: Admin, accounts: AccountsNow) -> Account:
    """Role, limits, balance, or whether it is disabled."""
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    if "limits" in changes:
        given = body.limits.model_dump(exclude_unset=True)
        changes["limits"] = replace(accounts.get(account).limits, **given)
    return accounts.update(account, **changes)


@router.post("/admin/accounts/{account}/reset", status_code=201)
def reset_account(account: Id, admin: Admin, accounts: AccountsNow) -> CreatedInvitation:
    """A link with which its person sets a new password; it works once, within a day."""
    invitation, token = accounts.reset(account)
    return CreatedInvitation(invitation=invitation, token=token)


@router.get("/admin/usage")
def get_all_usage(admin: Admin, store: StoreNow, days: Days = 30) -> Sequence[UsageRow]:
    """Of all accounts, by day, model and key."""
    return store.usage.report(None, days)


def _begin(request: Request, response: Response, account: Account, session: Session) -> Me:
    response.set_cookie(
        COOKIE,
        session.token,
        max_age=int(LIFETIME),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return Me(account=account, role=account.role, one_person=False, csrf=session.csrf, currency=_currency(request))


def _currency(request: Request) -> str | None:
    prices: Prices = request.app.state.config.prices
    return prices.currency if prices.any else None


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _limits(given: GivenLimits) -> Limits:
    return Limits(**given.model_dump())

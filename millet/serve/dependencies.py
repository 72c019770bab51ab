"""What routes are given: who asks, the store and the accounts.

`app.state.config` and `app.state.store` are what they are called; `app.state.accounts` is None in one-person mode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import Depends, Request

from millet.serve.accounts import Accounts
from millet.serve.caller import LOCAL, Caller
from millet.serve.errors import ApiError
from millet.serve.store import Store

COOKIE = "millet_session"
CSRF_HEADER = "X-CSRF-Token"

# Threads of its own: else a few slow imports or searches of one account would keep everybody waiting at the door.
_door = anyio.CapacityLimiter(8)


async def get_caller(request: Request) -> Caller:
    """By API key (`Authorization: Bearer` or Anthropic's `x-api-key`) or session cookie. Raises ApiError 401, 403."""
    accounts: Accounts | None = request.app.state.accounts
    if accounts is None:
        return replace(LOCAL, limits=request.app.state.config.limits)
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")
    cookie, csrf = request.cookies.get(COOKIE), request.headers.get(CSRF_HEADER)
    return await to_thread.run_sync(accounts.authenticate, key, cookie, csrf, request.method, limiter=_door)


def get_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def get_accounts(request: Request) -> Accounts:
    """Raises ApiError 404 in one-person mode."""
    accounts: Accounts | None = request.app.state.accounts
    if accounts is None:
        raise ApiError(404, "this server has no accounts; start it with --users", code="no_accounts")
    return accounts


def get_person(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    """Somebody who has signed in: a leaked API key must not be able to make others."""
    if caller.key is not None:
        raise ApiError(403, "an API key may not do this; sign in in a browser", code="session_needed")
    return caller


def get_admin(person: Annotated[Caller, Depends(get_person)]) -> Caller:
    if person.role != "admin":
        raise ApiError(403, "only an administrator may do this", code="administrator_needed")
    return person

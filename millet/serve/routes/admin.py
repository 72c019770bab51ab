"""What administrators see of the server's load, and everybody's keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Literal

import psutil
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel

from millet.serve.accounts import Accounts
from millet.serve.caller import Caller
from millet.serve.dependencies import get_accounts, get_admin
from millet.serve.keys import OwnedKey
from millet.serve.routes.replies import get_service
from millet.serve.service import Service
from millet.serve.store.records import ID

router = APIRouter(prefix="/api/admin", tags=["accounts"])

Admin = Annotated[Caller, Depends(get_admin)]
AccountsNow = Annotated[Accounts, Depends(get_accounts)]


class ModelLoad(BaseModel):
    """running: replies, each sample of them. cache_used, cache_total: tokens; null behind an upstream.
    tokens_per_second: over the last 5 seconds, of all replies together."""

    name: str
    state: Literal["loading", "ready", "unreachable"]
    running: int
    cache_used: int | None
    cache_total: int | None
    tokens_per_second: float


class Load(BaseModel):
    """running: of the `slots`, those in use. waiting: requests, of the `queue`'s places. memory_bytes: what this
    process has in memory."""

    running: int
    waiting: int
    slots: int
    queue: int
    uptime_seconds: float
    memory_bytes: int
    models: Sequence[ModelLoad]


@router.get("/load")
async def get_load(request: Request, admin: Admin, service: Annotated[Service, Depends(get_service)]) -> Load:
    """How busy the server is now."""
    admission = service.admission
    return Load(
        running=admission.running,
        waiting=admission.waiting,
        slots=admission.queue.slots,
        queue=admission.queue.capacity,
        uptime_seconds=round(time.monotonic() - request.app.state.opened, 3),
        memory_bytes=psutil.Process().memory_info().rss,
        models=[_model(name, service) for name in service.backends],
    )


@router.get("/keys")
def list_all_keys(admin: Admin, accounts: AccountsNow) -> Sequence[OwnedKey]:
    """The API keys of all accounts, newest first, revoked ones too."""
    return accounts.keys.list_all()


@router.delete("/keys/{key}", status_code=204)
def revoke_anybodys_key(key: Annotated[str, Path(pattern=ID)], admin: Admin, accounts: AccountsNow) -> None:
    """For good."""
    accounts.keys.revoke(None, key)


def _model(name: str, service: Service) -> ModelLoad:
    status = service.backends[name].status()
    return ModelLoad(
        name=name,
        state=status.state,
        running=service.running(name),
        cache_used=status.cache_used,
        cache_total=status.cache_total,
        tokens_per_second=round(service.paces[name].per_second, 2),
    )

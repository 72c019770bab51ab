"""Whether the server lives, and whether it can answer."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from millet.serve.store import Store

PATIENCE = 5.0  # seconds that the database has to answer

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)

# A thread of its own: else those that wait for a database that hangs would keep this one waiting too.
_thread = anyio.CapacityLimiter(1)


@router.get("/healthz")
async def healthz() -> dict[str, Any]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Every model can answer now, and so does the database; 503 with the reason until then."""
    reason = await request.app.state.service.ready() or await _database(request.app.state.store)
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": reason}, 503, {"Retry-After": "5"})


async def _database(store: Store) -> str | None:
    """The details are for the log alone: they tell where the database is."""
    reason: str | None = f"no answer in {PATIENCE:g} s"
    with anyio.move_on_after(PATIENCE):
        reason = await to_thread.run_sync(store.database.why_not, abandon_on_cancel=True, limiter=_thread)
    if reason is None:
        return None
    log.error("the database does not answer: %s", reason)
    return "the database does not answer; see the server's log"

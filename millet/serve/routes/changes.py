"""What pages ask every few seconds, to show what other pages, devices and programs of the account have done."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from millet.serve.caller import Caller
from millet.serve.dependencies import get_caller, get_store
from millet.serve.store import Store
from millet.serve.store.changes import Changes, changes
from millet.serve.store.records import ID

router = APIRouter(prefix="/api", tags=["conversations"])


@router.get("/changes")
def get_changes(
    caller: Annotated[Caller, Depends(get_caller)],
    store: Annotated[Store, Depends(get_store)],
    conversation: Annotated[str | None, Query(pattern=ID)] = None,
) -> Changes:
    """Two words that differ when the account's list of conversations, or anything of the one that is asked for, has
    changed since."""
    return changes(store.database, caller.account, conversation)

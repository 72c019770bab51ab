"""What a running server does once an hour: it removes for good what is over."""

from __future__ import annotations

import asyncio
import logging

from anyio import to_thread

from millet.serve.store import Store

EVERY = 3600.0  # seconds

log = logging.getLogger(__name__)


async def keep_house(store: Store) -> None:
    """Until it is cancelled. What fails is tried again the next time."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await to_thread.run_sync(store.sweep)
        except Exception as error:
            log.error("what is over could not be removed (%s); trying again in an hour", type(error).__name__)

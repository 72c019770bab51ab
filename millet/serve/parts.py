"""The parts of a running server, opened in order and closed in the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from millet.serve.accounts import Accounts
from millet.serve.admission import SHARE, Admission
from millet.serve.chat import Backend
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded
from millet.serve.housekeeping import keep_house
from millet.serve.ledger import Ledger
from millet.serve.live import LiveReplies
from millet.serve.service import Service
from millet.serve.store import Store


def open_parts(
    state: Any, config: ServeConfig, backends: Mapping[str, Backend], store: Store, stack: AsyncExitStack
) -> None:
    """Fill the application's state: store, accounts, service, live, and when it was `opened`. Models load meanwhile, in
    the background."""
    state.opened = time.monotonic()
    state.store = store
    state.accounts = accounts = Accounts(store, config.limits) if config.users else None
    ledger = Ledger(store, accounts, config.prices)
    stack.callback(ledger.close)
    # One person's programs may fill the queue; of several people none may.
    share = SHARE if accounts is not None else 1.0
    admission = Admission(config.slots, config.queue, config.prices, share=share)
    state.metrics.watch(waiting=lambda: admission.waiting, running=lambda: admission.running)
    state.service = Service(
        backends,
        admission,
        state.metrics,
        state.log,
        spending=ledger.spending,
        on_usage=ledger.record,
        max_tokens=config.max_tokens,
    )
    state.live = LiveReplies(store)
    for name, backend in backends.items():
        stack.callback(backend.close)
        if isinstance(backend, Embedded):
            state.metrics.watch_batch(name, backend.running)
    stack.push_async_callback(state.live.close)
    loading = asyncio.create_task(_load(backends, state.on_failure))
    stack.callback(loading.cancel)
    stack.callback(asyncio.create_task(keep_house(store)).cancel)


async def _load(backends: Mapping[str, Backend], on_failure: Callable[[Exception], None] | None) -> None:
    """One after the other. What cannot be loaded ends the server, with the reason; a bug is a reason, too."""
    try:
        for backend in backends.values():
            await backend.load()
    except Exception as error:
        if on_failure is not None:
            on_failure(error)

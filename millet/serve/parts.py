"""The parts of a running server, opened in order and closed in the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from millet.errors import MilletError
from millet.reasoning.reply import Usage
from millet.serve.accounts import Accounts
from millet.serve.admission import Admission, Spending
from millet.serve.caller import Caller
from millet.serve.chat import Backend
from millet.serve.config import ServeConfig
from millet.serve.live import LiveReplies
from millet.serve.service import Service
from millet.serve.store import Store


def open_parts(
    state: Any, config: ServeConfig, backends: Mapping[str, Backend], store: Store, stack: AsyncExitStack
) -> None:
    """Fill the application's state: store, accounts, service, live. Models load meanwhile, in the background."""
    state.store = store
    state.accounts = accounts = Accounts(store, config.limits) if config.users else None
    spending = partial(_spending, accounts) if accounts is not None else _spent_nothing
    admission = Admission(config.slots, config.queue, config.prices, spending=spending)
    state.service = Service(
        backends,
        admission,
        state.metrics,
        state.log,
        on_usage=_recorder(store, config),
        max_tokens=config.max_tokens,
    )
    state.live = LiveReplies(store)
    for backend in backends.values():
        stack.callback(backend.close)
    stack.push_async_callback(state.live.close)
    loading = asyncio.create_task(_load(backends, state.on_failure))
    stack.callback(loading.cancel)


async def _load(backends: Mapping[str, Backend], on_failure: Callable[[MilletError], None] | None) -> None:
    """One after the other. What cannot be loaded ends the server, with the reason."""
    try:
        for backend in backends.values():
            await backend.load()
    except MilletError as error:
        if on_failure is not None:
            on_failure(error)


def _spending(accounts: Accounts, caller: Caller) -> Spending:
    return Spending(accounts.spent_today(caller.account, caller.key), accounts.balance(caller.account))


def _spent_nothing(caller: Caller) -> Spending:
    return Spending()


def _recorder(store: Store, config: ServeConfig) -> Callable[[Caller, str, Usage], None]:
    def record(caller: Caller, model: str, usage: Usage) -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, store.usage.record, caller, model, usage, config.prices.cost(usage))

    return record

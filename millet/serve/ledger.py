"""What every reply cost: written to the store in the background, and counted at once."""

from __future__ import annotations

import logging
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor

from anyio import to_thread

from millet.reasoning.reply import Usage
from millet.serve.accounts import Accounts
from millet.serve.admission import Spending
from millet.serve.caller import Caller
from millet.serve.config import Prices
from millet.serve.store import Store

log = logging.getLogger(__name__)


class Ledger:
    """For the event loop's thread; one other thread writes. accounts: None in one-person mode, where nobody pays."""

    def __init__(self, store: Store, accounts: Accounts | None, prices: Prices) -> None:
        self._store = store
        self._accounts = accounts
        self._prices = prices
        self._unwritten: dict[tuple[str, str | None], float] = defaultdict(float)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="millet-ledger")

    def record(self, caller: Caller, model: str, usage: Usage) -> None:
        """A reply has ended."""
        cost, whose = self._prices.cost(usage), (caller.account, caller.key)
        self._unwritten[whose] += cost

        def written(done: Future[None]) -> None:
            if (error := done.exception()) is None:
                self._unwritten[whose] -= cost
            else:  # it goes on to count against the limits, as long as the process lives
                log.error("a reply's usage could not be written (%s)", type(error).__name__)

        self._writer.submit(self._store.usage.record, caller, model, usage, cost).add_done_callback(written)

    async def spending(self, caller: Caller) -> Spending:
        """As `Admission` wants it: of today and what is left, with what is not written yet. What is written meanwhile
        counts twice for a moment, which refuses too much rather than too little."""
        if self._accounts is None or not self._prices.any:
            return Spending()
        unwritten = sum(cost for (account, _), cost in self._unwritten.items() if account == caller.account)
        of_key = unwritten if caller.key is None else self._unwritten.get((caller.account, caller.key), 0.0)
        return await to_thread.run_sync(self._read, self._accounts, caller, unwritten, of_key)

    @staticmethod
    def _read(accounts: Accounts, caller: Caller, unwritten: float, of_key: float) -> Spending:
        of_account = accounts.spent_today(caller.account)
        today = of_account if caller.key is None else accounts.spent_today(caller.account, caller.key)
        balance = accounts.balance(caller.account)
        return Spending(today + of_key, None if balance is None else balance - unwritten, of_account + unwritten)

    def close(self) -> None:
        """Write what there is."""
        self._writer.shutdown()

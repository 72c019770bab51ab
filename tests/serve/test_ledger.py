"""What replies cost is counted at once, and not forgotten where it cannot be written."""

import asyncio

import pytest
import sqlalchemy as sa

from millet.reasoning.reply import Usage
from millet.serve.accounts import Accounts
from millet.serve.caller import LOCAL, Caller
from millet.serve.config import Prices
from millet.serve.ledger import Ledger
from millet.serve.store import Store

PRICES = Prices(output=1_000_000.0)


def test_a_cost_counts_before_and_after_it_is_written(store: Store) -> None:
    ledger = Ledger(store, Accounts(store), PRICES)
    ledger.record(LOCAL, "m", Usage(completion_tokens=3))
    assert asyncio.run(ledger.spending(LOCAL)).today >= 3.0
    ledger.close()
    assert asyncio.run(ledger.spending(LOCAL)).today == store.usage.spent_today("local") == 3.0


def test_what_cannot_be_written_counts_all_the_same_and_is_told(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(caller: Caller, model: str, used: Usage, cost: float) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("the disk is full"))

    ledger = Ledger(store, Accounts(store), PRICES)
    monkeypatch.setattr(store.usage, "record", broken)
    ledger.record(LOCAL, "m", Usage(completion_tokens=3))
    ledger.close()
    assert asyncio.run(ledger.spending(LOCAL)).today == 3.0
    assert "usage could not be written" in caplog.text

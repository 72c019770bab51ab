"""What a running server does once an hour."""

from __future__ import annotations

import threading

import pytest

from millet.serve import housekeeping
from millet.serve.store import Store
from tests.serve.fakes import FakeBackend, running


def test_a_running_server_sweeps_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    swept = threading.Semaphore(0)

    def sweep(self: Store) -> None:
        swept.release()
        raise ValueError("a secret")

    monkeypatch.setattr(housekeeping, "EVERY", 0.01)
    with running({"m": FakeBackend()}):
        monkeypatch.setattr(Store, "sweep", sweep)
        assert swept.acquire(timeout=10)
        assert swept.acquire(timeout=10)
    assert "could not be removed (ValueError)" in caplog.text
    assert "secret" not in caplog.text

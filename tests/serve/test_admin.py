"""What administrators see of the server's load, and everybody's keys."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest

from millet.reasoning.reply import Event
from millet.serve.chat import ModelStatus
from millet.serve.config import ServeConfig
from millet.serve.pace import Pace
from millet.serve.store import Store
from tests.serve.fakes import FakeBackend, finish, running, spoken
from tests.serve.small_app import Browser, small_app
from tests.serve.test_accounts import _cheap_hashes, admin, app, make_key, member, people, programs
from tests.serve.test_app import ASK, wait_until

__all__ = ["_cheap_hashes", "admin", "app", "member", "people"]  # fixtures


def load_of(url: str) -> Any:
    answer = httpx2.get(f"{url}/api/admin/load", timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_how_busy_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("millet.serve.service.Pace", lambda: Pace(lambda: now))
    endless = [*[Event("content", "a", (1, 2))] * 10, 60.0, finish()]
    busy = FakeBackend(endless, told=ModelStatus("ready", cache_used=48, cache_total=1024))
    idle = FakeBackend(told=ModelStatus("unreachable"))
    clients: list[threading.Thread] = []
    with running({"busy": busy, "idle": idle}, ServeConfig(port=0, slots=3, queue=7)) as url:
        before = load_of(url)
        assert (before["running"], before["waiting"], before["slots"], before["queue"]) == (0, 0, 3, 7)
        assert before["memory_bytes"] > 10 * 2**20
        body = ASK | {"model": "busy", "n": 2, "stream": True}
        for _ in range(2):  # of two samples each: one waits
            clients.append(
                threading.Thread(target=httpx2.post, args=[f"{url}/v1/chat/completions"], kwargs={"json": body})
            )
            clients[-1].start()
        wait_until(lambda: load_of(url)["waiting"] == 1)
        now += 1
        wait_until(lambda: load_of(url)["models"][0]["tokens_per_second"] == 20 / 5)
        load = load_of(url)
    for client in clients:
        client.join(20)
    assert (load["running"], load["waiting"]) == (2, 1)
    assert load["uptime_seconds"] > before["uptime_seconds"]
    first = {"name": "busy", "state": "ready", "running": 2, "cache_used": 48, "cache_total": 1024}
    assert load["models"][0] == first | {"tokens_per_second": 4.0}
    second = {"name": "idle", "state": "unreachable", "running": 0, "cache_used": None, "cache_total": None}
    assert load["models"][1] == second | {"tokens_per_second": 0.0}


def test_a_server_at_rest_says_so() -> None:
    with running({"m": FakeBackend(spoken())}, ServeConfig(port=0)) as url:
        assert httpx2.post(f"{url}/v1/chat/completions", json=ASK, timeout=20).status_code == 200
        wait_until(lambda: load_of(url)["running"] == 0)
        assert load_of(url)["models"][0]["running"] == 0


def test_with_accounts_only_administrators_see_it() -> None:
    with running({"m": FakeBackend()}, ServeConfig(port=0, users=True)) as url:
        for method, path in (("GET", "load"), ("GET", "keys"), ("DELETE", "keys/abc")):
            assert httpx2.request(method, f"{url}/api/admin/{path}").status_code == 401


def test_members_and_keys_see_neither(app: Any, admin: Browser, member: Browser) -> None:
    program = programs(app, make_key(admin)[1])
    for client in (member, program):
        assert client.get("/api/admin/keys").status_code == 403
        assert client.delete("/api/admin/keys/abc").status_code == 403
        assert client.get("/api/admin/load").status_code == 403


def test_everybodys_keys_are_listed_and_revoked(app: Any, admin: Browser, member: Browser) -> None:
    own, _ = make_key(admin)
    key, secret = make_key(member)
    listed = admin.get("/api/admin/keys").json()
    assert [(each["id"], each["account_name"]) for each in listed] == [(key, "Mia"), (own, "root@example.org")]
    assert listed[0]["account"] == member.get("/api/account").json()["account"]["id"]
    assert listed[0]["prefix"] == secret[:11]
    assert "hash" not in str(listed)
    program = programs(app, secret)
    assert program.get("/api/conversations").status_code == 200
    assert admin.delete(f"/api/admin/keys/{key}").status_code == 204
    assert program.get("/api/conversations").status_code == 401
    assert admin.delete(f"/api/admin/keys/{key}").status_code == 404
    assert admin.get("/api/admin/keys").json()[0]["revoked"] is not None
    assert member.get("/api/keys").json()[0]["revoked"] is not None


def test_without_accounts_there_are_no_keys(store: Store) -> None:
    assert Browser(small_app(store, None)).get("/api/admin/keys").status_code == 404

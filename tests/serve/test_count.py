"""How long a draft's prompt would be: the count is that of the reply's own prompt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from millet.engine.engine import Engine
from millet.reasoning.assistant import Assistant, Prepared
from millet.serve.caller import Limits
from millet.serve.chat import ChatRequest, ModelStatus
from millet.serve.config import UpstreamConfig
from millet.serve.embedded import Embedded
from millet.serve.upstream import Upstream
from tests.reasoning.toys import toy_model
from tests.serve.fakes import FakeBackend, FakeReply, finish, running
from tests.serve.test_app import CONFIG
from tests.serve.test_live import conversing, events

CONTEXT = 512
READY = ModelStatus("ready", context_length=CONTEXT)
NOTES = [{"name": "{question}.txt", "text": "first"}, {"name": "b", "text": "second"}]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    assistant = Assistant(Engine(toy_model(0, context=CONTEXT)))
    with running({"m": Embedded.of(assistant, "m")}, CONFIG) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def count(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/count", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def reply(client: httpx2.Client, conversation: str, **body: Any) -> list[dict[str, Any]]:
    url = f"/api/conversations/{conversation}/replies"
    answer = client.post(url, json={"max_tokens": 40, **body})  # room for a thought and an answer
    assert answer.status_code == 200, answer.text
    return events(answer.text)


@pytest.mark.parametrize(
    "more",
    [{}, {"think": "off"}, {"think": "on"}, {"system": "Be brief."}, {"attachments": NOTES}, {"model": "m-chat"}],
)
def test_it_is_what_the_reply_has(client: httpx2.Client, more: dict[str, Any]) -> None:
    conversation = client.post("/api/conversations", json={}).json()["id"]
    first = reply(client, conversation, content="Hello?", **more)
    assert first[-1]["usage"]["prompt_tokens"] == count(client, content="Hello?", **more)["prompt_tokens"]
    after = {"content": "And then?", "parent": first[0]["message"], **more}
    counted = count(client, conversation=conversation, **after)
    assert counted == {"prompt_tokens": counted["prompt_tokens"], "context_length": CONTEXT, "fits": True}
    assert counted == count(client, **after)
    assert reply(client, conversation, **after)[-1]["usage"]["prompt_tokens"] == counted["prompt_tokens"]
    assert counted["prompt_tokens"] > count(client, content="And then?", **more)["prompt_tokens"]


def test_what_does_not_fit_is_counted_all_the_same(client: httpx2.Client) -> None:
    conversation = client.post("/api/conversations", json={}).json()["id"]
    base = count(client, content="", think="off")["prompt_tokens"]
    longest = {"content": "7" * (CONTEXT - 1 - base), "think": "off"}  # each digit is a token; the last is the reply's
    assert count(client, **longest) == {"prompt_tokens": CONTEXT - 1, "context_length": CONTEXT, "fits": True}
    assert reply(client, conversation, **longest)[-1]["usage"]["completion_tokens"] == 1
    draft = {"content": longest["content"] + "7", "think": "off"}
    assert count(client, **draft) == {"prompt_tokens": CONTEXT, "context_length": CONTEXT, "fits": False}
    refused = client.post(f"/api/conversations/{conversation}/replies", json=draft)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    huge = count(client, content="x" * 1_000_000)
    assert huge == {"prompt_tokens": None, "context_length": CONTEXT, "fits": False}


def test_mistakes_are_refused(client: httpx2.Client) -> None:
    conversation = client.post("/api/conversations", json={}).json()["id"]
    elsewhere = client.post("/api/conversations", json={}).json()["id"]
    parent = client.post(f"/api/conversations/{elsewhere}/messages", json={"content": "a"}).json()["id"]
    for body, status in [
        ({}, 422),
        ({"content": "a", "model": "none"}, 404),
        ({"content": "a", "parent": "0" * 32}, 404),
        ({"content": "a", "parent": "\0"}, 422),
        ({"content": "a", "conversation": "0" * 32}, 404),
        ({"content": "a", "conversation": conversation, "parent": parent}, 404),
        ({"content": "a", "attachments": NOTES * 11}, 422),
    ]:
        assert client.post("/api/count", json=body).status_code == status, body


def test_the_event_loop_does_not_wait(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    prepare = Assistant.prepare

    def noted(self: Assistant, *messages: Any, **options: Any) -> Prepared:
        threads.append(threading.current_thread().name)
        return prepare(self, *messages, **options)

    monkeypatch.setattr(Assistant, "prepare", noted)
    count(client, content="a")
    assert [name.startswith("millet-prompt") for name in threads] == [True]


def test_it_takes_no_place_and_is_no_request() -> None:
    backend = FakeBackend([60.0, finish()], told=READY)
    limits = Limits(requests_per_minute=1, concurrency=1)
    with conversing(backend, slots=1, queue=0, limits=limits) as (client, conversation):
        for _ in range(3):
            assert count(client, content="a") == {"prompt_tokens": 10, "context_length": CONTEXT, "fits": True}
        with client.stream("POST", f"/api/conversations/{conversation}/replies", json={"content": "a"}) as response:
            begin = events(next(response.iter_lines()))[0]
            assert count(client, content="b")["fits"]
            client.post(f"/api/replies/{begin['message']}/stop")


class Busy(FakeBackend):
    """Notes how many prompts it reads at once."""

    now = most = 0

    async def prepare(self, request: ChatRequest) -> FakeReply:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(50):
            await asyncio.sleep(0)
        self.now -= 1
        return await super().prepare(request)


def test_of_one_account_one_at_a_time_is_counted() -> None:
    backend = Busy(told=READY)
    with conversing(backend) as (client, _), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: count(client, content="a")["fits"], range(24)))
    assert (len(backend.requests), backend.most) == (24, 1)


def test_only_the_other_server_could_count_its_own() -> None:
    upstream = Upstream("far", UpstreamConfig(("http://127.0.0.1:1/v1",), "m"))
    with running({"far": upstream}, CONFIG) as url, httpx2.Client(base_url=url) as client:
        assert count(client, content="a") == {"prompt_tokens": None, "context_length": None, "fits": True}


def test_while_the_model_loads_it_asks_for_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()
    monkeypatch.setattr(Embedded, "_load", lambda self: loaded.wait(20))
    with running({"m": Embedded("m")}, replace(CONFIG)) as url, httpx2.Client(base_url=url) as client:
        answer = client.post("/api/count", json={"content": "a"})
        loaded.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
    assert answer.headers["retry-after"]

"""Replies of conversations: kept as they stream, followed by clients that come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import httpx2
import pytest

from millet.reasoning.reply import Event
from millet.serve.live import LiveReply
from millet.serve.service import Answer
from millet.serve.store import Message, Store
from tests.serve.fakes import FakeBackend, finish, running, spoken
from tests.serve.test_app import CONFIG, wait_until


@contextmanager
def conversing(backend: FakeBackend, **changes: Any) -> Iterator[tuple[httpx2.Client, str]]:
    with (
        running({"m": backend}, replace(CONFIG, **changes)) as url,
        httpx2.Client(base_url=url, timeout=20) as client,
    ):
        yield client, client.post("/api/conversations", json={}).json()["id"]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: ")]


def messages(client: httpx2.Client, conversation: str) -> list[dict[str, Any]]:
    return client.get(f"/api/conversations/{conversation}").json()["messages"]


def test_a_reply_is_streamed_and_kept() -> None:
    with conversing(FakeBackend()) as (client, conversation):
        body = {"content": "What is 15 + 8?", "think": "on", "system": "Be brief."}
        told = events(client.post(f"/api/conversations/{conversation}/replies", json=body).text)
        question, answer = messages(client, conversation)
    assert told[0] == {
        "kind": "begin",
        "message": answer["id"],
        "model": "m",
        "thought_seconds": 0,
        "question": question["id"],
    }
    assert sum(event["tokens"] for event in told if event["kind"] == "reasoning") == 5
    assert "".join(event["text"] for event in told if event["kind"] == "content") == answer["content"] == "It is 23."
    assert answer["reasoning"] == "15 + 8 = 23"
    assert (answer["status"], answer["finish_reason"], answer["parent"]) == ("complete", "stop", question["id"])
    assert told[-1]["kind"] == "finish"
    assert told[-1]["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"] == 8
    assert [event["number"] for event in told[1:]] == list(range(1, len(told)))


def test_the_branch_is_what_the_model_sees() -> None:
    backend = FakeBackend()
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        first = events(client.post(url, json={"content": "a", "system": "s"}).text)[0]
        client.post(url, json={"content": "b", "parent": first["message"]})
        client.post(url, json={"content": "b, edited", "parent": first["message"]})
        again = events(client.post(url, json={"parent": first["question"]}).text)[0]
        tree = messages(client, conversation)
    said = [[(m["role"], m["content"]) for m in request.messages] for request in backend.requests]
    assert said == [
        [("system", "s"), ("user", "a")],
        [("user", "a"), ("assistant", "It is 23."), ("user", "b")],
        [("user", "a"), ("assistant", "It is 23."), ("user", "b, edited")],
        [("user", "a")],
    ]
    assert "question" not in again
    assert len(tree) == 7
    assert [m["id"] for m in tree if m["parent"] == first["question"]] == [first["message"], again["message"]]


def test_a_client_that_lost_the_connection_gets_the_rest() -> None:
    script = [Event("reasoning", "15 ", (1,)), Event("content", "It ", (2,)), 0.5, *spoken("", "is 23.")]
    backend = FakeBackend(script)
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        with client.stream("POST", url, json={"content": "a"}) as response:
            seen = []
            for line in response.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                if len(seen) == 3:
                    break
        message = seen[0]["message"]
        rest = events(client.get(f"/api/replies/{message}/events?after=2").text)
        late = events(client.get(f"/api/replies/{message}/events").text)
        assert messages(client, conversation)[-1]["content"] == "It is 23."
    assert [event.get("text") for event in rest[1:-1]] == ["is ", "23."]
    assert [event.get("text") for event in late[1:-1]] == ["15 ", "It ", "is ", "23."]
    assert backend.cancelled == 0


def test_stop_ends_a_reply_with_what_there_is() -> None:
    backend = FakeBackend([Event("content", "It ", (2,)), 60.0, finish()])
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        with client.stream("POST", url, json={"content": "a"}) as response:
            lines = response.iter_lines()
            message = json.loads(next(lines).removeprefix("data: "))["message"]
            wait_until(lambda: backend.running == 1)
            assert client.post(f"/api/replies/{message}/stop").status_code == 204
            told = events("\n\n".join(lines))
        answer = messages(client, conversation)[-1]
    assert told[-1]["status"] == answer["status"] == "stopped"
    assert answer["content"] == "It "
    assert backend.cancelled == 1


def test_a_reply_that_breaks_is_kept_as_failed() -> None:
    backend = FakeBackend([Event("content", "It ", (2,)), RuntimeError("a secret")])
    with conversing(backend) as (client, conversation):
        text = client.post(f"/api/conversations/{conversation}/replies", json={"content": "a"}).text
        answer = messages(client, conversation)[-1]
    assert (answer["status"], answer["content"]) == ("failed", "It ")
    assert events(text)[-1]["error"]["type"] == "server_error"
    assert "secret" not in text


def test_who_waits_is_told_the_place_in_the_queue(monkeypatch: Any) -> None:
    monkeypatch.setattr("millet.serve.live.SILENCE", 0.05)
    backend = FakeBackend([0.4, *spoken()])
    with conversing(backend, slots=1) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        with client.stream("POST", url, json={"content": "a"}) as first:
            next(first.iter_lines())
            told = events(client.post(url, json={"content": "b"}).text)
    waiting = [event for event in told if event["kind"] == "waiting"]
    assert waiting
    assert waiting[0]["position"] == 1
    assert told[-1]["status"] == "complete"


def test_a_place_in_the_queue_is_looked_up_once_for_all_who_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def waiting(self: LiveReply) -> str:
        nonlocal asked
        asked += 1
        return f"data: {json.dumps({'kind': 'waiting', 'position': asked})}\n\n"

    monkeypatch.setattr("millet.serve.live.SILENCE", 0.1)
    monkeypatch.setattr(LiveReply, "_waiting", waiting)
    together = threading.Barrier(8)

    def watch(url: str) -> list[int]:
        with client.stream("GET", url) as response:
            lines = (line for line in response.iter_lines() if "waiting" in line)
            next(lines)
            together.wait(20)
            return [json.loads(line.removeprefix("data: "))["position"] for line in islice(lines, 5)]

    with conversing(FakeBackend([60.0, *spoken()])) as (client, conversation), ThreadPoolExecutor(8) as pool:
        url = f"/api/conversations/{conversation}/replies"
        with client.stream("POST", url, json={"content": "a"}) as response:
            message = json.loads(next(response.iter_lines()).removeprefix("data: "))["message"]
            told = pool.map(watch, [f"/api/replies/{message}/events"] * 8)
            signs = [position for positions in told for position in positions]
            client.post(f"/api/replies/{message}/stop")
    assert len(signs) == 40
    assert len(set(signs)) < len(signs)  # else each had its own


def test_an_account_follows_so_many_replies_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.serve.live.WATCHERS", 2)
    monkeypatch.setattr("millet.serve.live.SILENCE", 0.1)
    with conversing(FakeBackend([Event("content", "It ", (2,)), 60.0, finish()])) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        with client.stream("POST", url, json={"content": "a"}) as response, ExitStack() as watching:
            message = json.loads(next(response.iter_lines()).removeprefix("data: "))["message"]
            follow = f"/api/replies/{message}/events"
            streams = [watching.enter_context(client.stream("GET", follow)).iter_lines() for _ in range(2)]
            for lines in streams:
                while "content" not in next(lines):
                    pass
            refused = client.get(follow)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "watchers")
            watching.close()  # who goes away makes room

            def admitted() -> bool:
                with client.stream("GET", follow) as again:
                    return again.status_code == 200

            wait_until(admitted)
            client.post(f"/api/replies/{message}/stop")


@pytest.mark.asyncio
async def test_a_slow_client_misses_nothing() -> None:
    reply = LiveReply(Message("a", "b", None, "assistant", ""), "me", cast(Answer, None), cast(Store, None))
    reply.events = ["1"]
    watching = reply.watch()
    told = [await anext(watching)]
    reply.events += ["2", "3"]  # while it takes the first
    reply.done = True
    assert told + [text async for text in watching] == ["1", "23"]


def test_mistakes_cost_nothing() -> None:
    backend = FakeBackend()
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        for body, status in [
            ({}, 422),
            ({"content": ""}, 422),
            ({"content": "a", "parent": "0" * 32}, 404),
            ({"content": "a", "parent": "\0"}, 422),  # which PostgreSQL would choke on
            ({"content": "a", "model": "none"}, 404),
            ({"content": "a", "think": "perhaps"}, 422),
        ]:
            assert client.post(url, json=body).status_code == status, body
        assert client.post(f"/api/conversations/{'0' * 32}/replies", json={"content": "a"}).status_code == 404
        assert client.get(f"/api/replies/{'0' * 32}/events").status_code == 404
        assert messages(client, conversation) == []
    assert backend.requests == []

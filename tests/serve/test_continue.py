"""Replies that go on from where they were; on both databases where the store has a part in it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import httpx2
import pytest

from millet.engine.engine import Engine
from millet.errors import PromptTooLong
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Event, Usage
from millet.serve.chat import ChatRequest
from millet.serve.config import UpstreamConfig
from millet.serve.embedded import Embedded
from millet.serve.errors import ApiError
from millet.serve.live import LiveReplies, LiveReply
from millet.serve.service import Answer
from millet.serve.store import Message, Store
from millet.serve.store.replies import ReplyWriter
from millet.serve.upstream import Upstream
from tests.reasoning.toys import toy_model
from tests.serve.fakes import FakeBackend, FakeReply, finish, running, spoken
from tests.serve.test_app import CONFIG
from tests.serve.test_live import conversing, events, messages

ME = "local"
USED = {"prompt_tokens": 5, "completion_tokens": 4, "reasoning_tokens": 3, "cached_tokens": 2}
CUT: dict[str, Any] = {
    "status": "stopped",
    "model": "m",
    "reasoning": "15 + 8",
    "content": "It is",
    "usage": USED,
    "thought_seconds": 1.5,
    "seconds": 4.0,
}


def imported(client: httpx2.Client, **changes: Any) -> tuple[str, dict[str, Any]]:
    """A conversation, and the reply in it."""
    said = {"id": "q", "role": "user", "content": "What is 15 + 8?"}
    reply = {"id": "r", "parent": "q", "role": "assistant", **CUT, **changes}
    made = client.post("/api/conversations/import", json={"messages": [said, reply]})
    conversation = made.json()["id"]
    return conversation, messages(client, conversation)[-1]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend([Event("content", " 23.", (2,)), replace(finish(), seconds=2.0, thought_seconds=0.5)])


@pytest.fixture
def client(backend: FakeBackend) -> Iterator[httpx2.Client]:
    with conversing(backend) as (client, _):
        yield client


def text_of(told: list[dict[str, Any]], kind: str) -> str:
    return "".join(event["text"] for event in told if event["kind"] == kind)


# What goes on, and how


def test_the_same_message_grows(database_url: str, backend: FakeBackend) -> None:
    with conversing(backend, database=database_url) as (client, _):
        conversation, begun = imported(client)
        told = events(client.post(f"/api/replies/{begun['id']}/continue", json={"system": "Be brief."}).text)
        question, reply = messages(client, conversation)
    assert backend.requests[0].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 15 + 8?"},
        {"role": "assistant", "prefix": True, "content": "It is", "reasoning_content": "15 + 8"},
    )
    assert told[0].pop("thought_seconds") == pytest.approx(begun["thought_seconds"], abs=1e-3)
    assert told[0] == {"kind": "begin", "message": begun["id"], "model": "m"}
    assert [event["number"] for event in told[1:]] == list(range(1, len(told)))
    assert (text_of(told, "reasoning"), text_of(told, "content")) == ("15 + 8", "It is 23.")
    assert {name: reply[name] for name in ("id", "parent", "reasoning", "content", "status", "finish_reason")} == {
        "id": begun["id"],
        "parent": question["id"],
        "reasoning": "15 + 8",
        "content": "It is 23.",
        "status": "complete",
        "finish_reason": "stop",
    }
    assert reply["usage"] == told[-1]["usage"]
    # What was generated adds up; the prompt is the last run's.
    assert reply["usage"] == {"prompt_tokens": 10, "completion_tokens": 11, "reasoning_tokens": 6, "cached_tokens": 4}
    assert (reply["thought_seconds"], reply["seconds"]) == (told[-1]["thought_seconds"], told[-1]["seconds"]) == (2, 6)


def test_a_thought_goes_on_in_the_thought(client: httpx2.Client, backend: FakeBackend) -> None:
    conversation, begun = imported(client, content="")
    backend.script = spoken(" = 23", "It is 23.")
    told = events(client.post(f"/api/replies/{begun['id']}/continue", json={"think": "on"}).text)
    reply = messages(client, conversation)[-1]
    prefix = {"role": "assistant", "prefix": True, "content": "", "reasoning_content": "15 + 8"}
    assert backend.requests[0].messages[-1] == prefix
    assert backend.requests[0].options["think"] == "on"
    assert text_of(told, "reasoning") == reply["reasoning"] == "15 + 8 = 23"
    assert text_of(told, "content") == reply["content"] == "It is 23."


def test_a_reply_of_which_there_is_nothing_begins_anew(client: httpx2.Client, backend: FakeBackend) -> None:
    _, begun = imported(client, content="", reasoning="", usage=None)
    told = events(client.post(f"/api/replies/{begun['id']}/continue", json={}).text)
    assert [message["role"] for message in backend.requests[0].messages] == ["user"]
    assert told[-1]["usage"]["completion_tokens"] == 7


CUT_OFF = [("stopped", None), ("interrupted", None), ("failed", None), ("complete", "length"), ("complete", "loop")]


@pytest.mark.parametrize(("status", "reason"), CUT_OFF)
def test_what_was_cut_goes_on(client: httpx2.Client, status: str, reason: str | None) -> None:
    conversation, begun = imported(client, status=status, finish_reason=reason)
    assert client.post(f"/api/replies/{begun['id']}/continue", json={}).status_code == 200
    reply = messages(client, conversation)[-1]
    assert (reply["content"], reply["status"], reply["finish_reason"]) == ("It is 23.", "complete", "stop")
    assert client.get("/api/conversations/search?q=23").json()


def test_it_goes_on_more_than_once(client: httpx2.Client, backend: FakeBackend) -> None:
    conversation, begun = imported(client)
    url = f"/api/replies/{begun['id']}/continue"
    backend.script = [Event("content", " 2", (2,)), finish("length", tokens=1, reasoning=0)]
    client.post(url, json={"max_tokens": 1})
    backend.script = [Event("content", "3", (2,)), RuntimeError("a secret")]
    assert events(client.post(url, json={}).text)[-1]["status"] == "failed"
    backend.script = [Event("content", ".", (2,)), finish(tokens=1, reasoning=0)]
    client.post(url, json={})
    reply = messages(client, conversation)[-1]
    assert (reply["content"], reply["status"]) == ("It is 23.", "complete")
    assert reply["usage"]["completion_tokens"] == 4 + 3
    assert [request.messages[-1]["content"] for request in backend.requests] == ["It is", "It is 2", "It is 23"]


def test_who_follows_from_the_beginning_gets_the_whole_text(client: httpx2.Client, backend: FakeBackend) -> None:
    _, begun = imported(client)
    backend.script = [Event("content", " 23", (2,)), 60.0, finish()]
    url = f"/api/replies/{begun['id']}"
    with client.stream("POST", f"{url}/continue", json={}) as first:
        lines = (line for line in first.iter_lines() if line.startswith("data: "))
        assert "".join(islice(lines, 4)).count("text") == 3
        with client.stream("GET", f"{url}/events") as second:
            client.post(f"{url}/stop")
            told = events("\n\n".join(second.iter_lines()))
        behind = events(client.get(f"{url}/events?after=2").text)
    assert (text_of(told, "reasoning"), text_of(told, "content")) == ("15 + 8", "It is 23")
    assert text_of(behind, "content") == " 23"
    assert told[-1]["status"] == "stopped"
    assert told[-1]["usage"]["completion_tokens"] == 4 + 1  # of the one that was stopped, those that came


def test_a_reply_that_is_stopped_in_its_thought_has_its_time(client: httpx2.Client, backend: FakeBackend) -> None:
    conversation, begun = imported(client, content="", thought_seconds=100.0, seconds=200.0)
    backend.script = [Event("reasoning", " =", (2,)), 60.0, finish()]
    with client.stream("POST", f"/api/replies/{begun['id']}/continue", json={}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert len(list(islice(lines, 3))) == 3  # the last is what is new
        client.post(f"/api/replies/{begun['id']}/stop")
        assert "finish" in next(lines)
    reply = messages(client, conversation)[-1]
    assert reply["thought_seconds"] > 100
    assert reply["seconds"] > 100 + reply["thought_seconds"] - 1e-6


# What is refused


def refused(client: httpx2.Client, message: str) -> tuple[int, str]:
    answer = client.post(f"/api/replies/{message}/continue", json={})
    return answer.status_code, answer.json()["error"]["code"]


def test_what_cannot_go_on_is_refused(client: httpx2.Client, backend: FakeBackend) -> None:
    call = {"id": "c", "name": "f", "arguments": "{}"}
    for changes in (
        {"status": "complete", "finish_reason": "stop"},
        {"status": "complete", "finish_reason": "tool_calls", "tool_calls": [call]},
        {"status": "stopped", "tool_calls": [call]},
    ):
        conversation, reply = imported(client, **changes)
        assert refused(client, reply["id"]) == (409, "reply_complete"), changes
        assert messages(client, conversation)[-1] == reply
    assert refused(client, messages(client, conversation)[0]["id"]) == (404, "reply_not_found")
    assert refused(client, "0" * 32) == (404, "message_not_found")
    assert client.post("/api/replies/%00/continue", json={}).status_code == 422
    assert client.post(f"/api/replies/{reply['id']}/continue", json={"think": "perhaps"}).status_code == 422
    _, elsewhere = imported(client, model="another")
    assert refused(client, elsewhere["id"]) == (404, "model_not_found")
    assert backend.requests == []


def test_what_is_being_written_is_refused(client: httpx2.Client, backend: FakeBackend) -> None:
    _, begun = imported(client)
    backend.script = [60.0, finish()]
    with client.stream("POST", f"/api/replies/{begun['id']}/continue", json={}) as first:
        next(first.iter_lines())
        assert refused(client, begun["id"]) == (409, "reply_streaming")
        client.post(f"/api/replies/{begun['id']}/stop")


class Meeting(FakeBackend):
    """Lets nobody on until all have come."""

    guests = 6

    async def prepare(self, request: ChatRequest) -> FakeReply:
        prepared = await super().prepare(request)
        while len(self.requests) < self.guests:
            await asyncio.sleep(0.001)
        return prepared


def test_of_many_at_once_exactly_one_wins(database_url: str) -> None:
    backend = Meeting([Event("content", " 23", (2,)), 60.0, finish()])
    with conversing(backend, database=database_url) as (client, _), ThreadPoolExecutor(backend.guests) as pool:
        conversation, begun = imported(client)
        asking: list[Future[httpx2.Response]] = [
            pool.submit(client.post, f"/api/replies/{begun['id']}/continue", json={}) for _ in range(backend.guests)
        ]
        losers = [each.result() for each in islice(as_completed(asking), backend.guests - 1)]
        assert client.post(f"/api/replies/{begun['id']}/stop").status_code == 204
        (winner,) = (each.result() for each in asking if each.result() not in losers)
        reply = messages(client, conversation)[-1]
    assert [(each.status_code, each.json()["error"]["code"]) for each in losers] == [(409, "reply_streaming")] * 5
    assert winner.status_code == 200
    assert reply["content"].count("23") <= 1
    assert backend.running == 0
    assert backend.cancelled == 1  # the losers never ran


@pytest.mark.parametrize("error", [ApiError(422, "it cannot go on"), PromptTooLong("too long")])
def test_a_refusal_changes_nothing(client: httpx2.Client, backend: FakeBackend, error: Exception) -> None:
    conversation, begun = imported(client)
    before = client.get(f"/api/conversations/{conversation}").json()
    backend.error = error
    assert client.post(f"/api/replies/{begun['id']}/continue", json={}).status_code in (400, 422)
    assert client.get(f"/api/conversations/{conversation}").json() == before
    backend.error = None
    assert client.post(f"/api/replies/{begun['id']}/continue", json={}).status_code == 200


@pytest.mark.parametrize(
    ("dialect", "content", "says"),
    [("openai", "It is", "from a beginning"), ("vllm", "", "in the middle of a thought")],
)
def test_an_upstream_that_cannot_go_on_says_so(dialect: Any, content: str, says: str) -> None:
    upstream = Upstream("m", UpstreamConfig(("http://127.0.0.1:1/v1",), "m", dialect=dialect))
    with running({"m": upstream}, CONFIG) as url, httpx2.Client(base_url=url) as client:
        conversation, begun = imported(client, content=content)
        answer = client.post(f"/api/replies/{begun['id']}/continue", json={})
        assert (answer.status_code, messages(client, conversation)[-1]) == (422, begun)
        assert says in answer.json()["error"]["message"]


# The real engine


def test_the_engine_goes_on_from_the_text(seed: int) -> None:
    assistant = Assistant(Engine(toy_model(seed)))
    asked = {"role": "user", "content": "Hello?"}
    greedy: Any = {"temperature": 0.0, "think": "off", "max_tokens": 12}
    with running({"m": Embedded.of(assistant, "m")}, CONFIG) as url, httpx2.Client(base_url=url, timeout=60) as client:
        conversation = client.post("/api/conversations", json={}).json()["id"]
        first = client.post(f"/api/conversations/{conversation}/replies", json={"content": "Hello?", **greedy})
        begun = messages(client, conversation)[-1]
        assert begun["finish_reason"] in ("length", "loop")
        prefix = {"role": "assistant", "content": begun["content"], "prefix": True}
        rest = assistant.chat([asked, prefix], **greedy)
        client.post(f"/api/replies/{events(first.text)[0]['message']}/continue", json=greedy)
        reply = messages(client, conversation)[-1]
    assert begun["content"]
    assert rest.usage.completion_tokens
    assert reply["content"] == begun["content"] + rest.content
    assert reply["usage"]["completion_tokens"] == begun["usage"]["completion_tokens"] + rest.usage.completion_tokens


# The store


def cut(store: Store, content: str = "It is") -> Message:
    conversation = store.conversations.create(ME)
    question = store.conversations.add_message(ME, conversation.id, None, "user", "?")
    reply = store.conversations.begin_reply(ME, question.id, "m")
    store.replies.append(reply.id, content=content)
    store.replies.finish(reply.id, "stopped").result(10)
    return found(store, reply)


def found(store: Store, message: Message) -> Message:
    return store.conversations.path(ME, message.id)[-1]


def test_it_grows_in_the_database(store: Store) -> None:
    begun = cut(store)
    before = store.conversations.get(ME, begun.conversation).updated
    resumed = store.resume_reply(ME, begun)
    assert found(store, begun) == resumed == replace(begun, status="streaming")
    assert store.conversations.get(ME, begun.conversation).updated > before
    store.replies.append(begun.id, content=" 23.")
    store.replies.finish(begun.id, "complete", finish_reason="stop").result(10)
    assert (found(store, begun).content, found(store, begun).status) == ("It is 23.", "complete")
    assert [hit.message for hit in store.search(ME, "23")] == [begun.id]


def test_what_has_changed_is_not_gone_on_with(store: Store) -> None:
    begun = cut(store)
    store.resume_reply(ME, begun)
    store.replies.append(begun.id, content=" 23")
    store.replies.finish(begun.id, "stopped").result(10)
    with pytest.raises(ApiError, match="changed") as caught:
        store.resume_reply(ME, begun)
    assert (caught.value.status, caught.value.code) == (409, "reply_changed")
    assert found(store, begun).status == "stopped"
    store.conversations.delete(ME, begun.conversation)
    with pytest.raises(ApiError) as gone:
        store.resume_reply(ME, begun)
    assert gone.value.status == 404


def test_it_waits_for_the_end_to_be_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cut(store)
    monkeypatch.setattr("millet.serve.store.replies.PATIENCE", 0.0)
    store.replies.append(begun.id, content="more")  # somebody writes it still, whatever the database says
    with pytest.raises(ApiError) as caught:
        store.resume_reply(ME, begun)
    assert (caught.value.status, caught.value.code) == (409, "reply_streaming")


CRASH = """
import sys, threading, time
from millet.serve.store import Store
deadline = time.monotonic() + 20
store = Store.open(sys.argv[1])
message = store.conversations.path("local", sys.argv[2])[-1]
store.resume_reply("local", message)
store.replies.append(message.id, content=" 23")
while store.conversations.path("local", message.id)[-1].content == message.content:
    assert time.monotonic() < deadline
print("written", flush=True)
threading.Event().wait()
"""


def test_a_crash_leaves_an_interrupted_reply_that_can_go_on(database_url: str) -> None:
    with Store.open(database_url) as store:
        begun = cut(store)
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, database_url, begun.id], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    with Store.open(database_url) as store:
        left = found(store, begun)
        assert (left.status, left.content) == ("interrupted", "It is 23")
        assert [hit.message for hit in store.search(ME, "23")] == [begun.id]
        assert store.resume_reply(ME, left).content == "It is 23"
    with Store.open(database_url) as store:
        assert found(store, begun) == left  # closed before it grew


def test_who_lost_a_reply_to_another_process_writes_it_no_more(store: Store) -> None:
    begun = cut(store)
    other = ReplyWriter(store.database, owner=7)  # taken for dead, while it only had lost its connection
    try:
        other.resume(begun)
        store.resume_reply(ME, begun)
        other.append(begun.id, content=" 42")
        other.finish(begun.id, "complete").result(10)
        assert found(store, begun) == replace(begun, status="streaming")
        store.replies.finish(begun.id, "complete").result(10)
        assert found(store, begun).content == "It is"
    finally:
        other.close()


# Stopping


class FakeAnswer:
    """Says nothing, until it is closed."""

    def __init__(self) -> None:
        self.usage, self.seconds, self.begun, self.closed = Usage(), 0.0, False, False
        self.ended = asyncio.Event()

    async def batches(self, silence: float) -> AsyncGenerator[list[Event] | None, None]:
        self.begun = True
        await self.ended.wait()
        yield [finish()]

    def close(self) -> None:
        self.closed = True


class FakeStore:
    def __init__(self) -> None:
        self.replies = self
        self.written: Future[None] = Future()
        self.status = ""

    def finish(self, message: str, status: str, **end: Any) -> Future[None]:
        self.status = status
        return self.written


def begin() -> tuple[LiveReplies, LiveReply, FakeAnswer, FakeStore]:
    store, answer = FakeStore(), FakeAnswer()
    live = LiveReplies(cast(Store, store))
    message = Message("a", "c", "q", "assistant", "", status="streaming")
    return live, live.start(message, ME, cast(Answer, answer)), answer, store


async def watched(reply: LiveReply) -> list[str]:
    async with asyncio.timeout(10):
        return [text async for text in reply.watch()]


@pytest.mark.asyncio
async def test_stop_before_the_beginning_stops() -> None:
    _, reply, answer, store = begin()
    reply.stop()
    store.written.set_result(None)
    told = await watched(reply)
    assert '"status":"stopped"' in told[-1].replace(" ", "")
    assert (store.status, answer.begun, answer.closed) == ("stopped", False, True)


@pytest.mark.asyncio
async def test_stop_while_the_end_is_written_changes_nothing() -> None:
    _, reply, answer, store = begin()
    answer.ended.set()
    while not store.status:
        await asyncio.sleep(0)
    reply.stop()
    reply.stop()
    store.written.set_result(None)
    assert await watched(reply)
    assert (store.status, reply.done) == ("complete", True)


@pytest.mark.asyncio
async def test_an_old_run_is_forgotten_and_not_the_new_one() -> None:
    live, old, answer, store = begin()
    answer.ended.set()
    store.written.set_result(None)
    assert await watched(old)
    new = live.start(old.message, ME, cast(Answer, FakeAnswer()))
    live._forget(old)
    assert live.get(ME, "a") is new
    live._forget(new)
    with pytest.raises(ApiError):
        live.get(ME, "a")
    new.stop()

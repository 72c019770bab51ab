"""The server as clients meet it: over sockets, with a backend that says what the test tells it to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx2
import pytest

from millet.errors import BadRequest, PromptTooLong, UnsupportedModel
from millet.reasoning.reply import Event
from millet.serve.caller import Limits
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError
from millet.serve.store.database import Database
from tests.serve.fakes import FakeBackend, finish, running, spoken

CONFIG = ServeConfig(port=0, keep_alive=60.0)  # longer than any test: a sign of life comes with status 200
ASK = {"model": "m", "messages": [{"role": "user", "content": "What is 15 + 8?"}]}


@contextmanager
def serving(backend: FakeBackend, config: ServeConfig = CONFIG) -> Iterator[httpx2.Client]:
    with running({"m": backend}, config) as url, httpx2.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with serving(FakeBackend()) as client:
        yield client


def wait_until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def error_of(response: httpx2.Response) -> dict[str, object]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions"])
def test_a_whole_reply(client: httpx2.Client, path: str) -> None:
    reply = client.post(path, json=ASK).json()
    message = reply["choices"][0]["message"]
    assert message["reasoning_content"] == "15 + 8 = 23"
    assert message["content"] == "It is 23."
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


def test_a_stream_has_its_headers_and_its_end(client: httpx2.Client) -> None:
    response = client.post("/v1/chat/completions", json=ASK | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-queue-position"] == "0"
    assert response.headers["cache-control"] == "no-store"
    assert response.text.endswith("data: [DONE]\n\n")
    assert "id:" not in [line[:3] for line in response.text.split("\n")]


@pytest.mark.parametrize(
    ("name", "switches", "think"),
    [
        ("m", {}, "on"),
        ("m-chat", {}, "off"),
        ("m-reasoner", {}, "on"),
        ("deepseek-chat", {}, "off"),
        ("deepseek-reasoner", {}, "on"),
        ("m", {"thinking": {"type": "disabled"}}, "off"),
        ("m-chat", {"thinking": {"type": "enabled"}}, "on"),
        ("m", {"reasoning_effort": "low"}, 512),
        ("m", {"reasoning_effort": "max"}, "on"),
        ("m", {"thinking": {"type": "enabled", "budget_tokens": 300}}, 300),
    ],
)
def test_both_eras_of_switches(name: str, switches: dict[str, object], think: object) -> None:
    backend = FakeBackend()
    with serving(backend) as client:
        assert client.post("/v1/chat/completions", json=ASK | {"model": name} | switches).status_code == 200
    assert backend.requests[0].options["think"] == think
    assert backend.requests[0].model == "m"


def test_thoughts_that_come_along_are_ignored() -> None:
    backend = FakeBackend()
    history = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "reasoning_content": "secret", "reasoning": "secret"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "e"},
    ]
    with serving(backend) as client:
        assert client.post("/v1/chat/completions", json=ASK | {"messages": history}).status_code == 200
    assert [(m["role"], m["content"]) for m in backend.requests[0].messages] == [
        ("user", "ab"),
        ("assistant", "c"),
        ("system", "d"),
        ("user", "e"),
    ]
    assert "secret" not in json.dumps(backend.requests[0].messages)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (ASK | {"model": "other"}, 404, "model"),
        ({"model": "m"}, 422, "messages"),
        (ASK | {"messages": []}, 422, "messages"),
        (ASK | {"messages": [{"role": "robot", "content": "x"}]}, 422, "messages.0.role"),
        (ASK | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        (ASK | {"temperature": 9}, 422, "temperature"),
        (ASK | {"temperature": "warm"}, 422, "temperature"),
        (ASK | {"max_tokens": 0}, 422, "max_tokens"),
        (ASK | {"n": 99}, 422, "n"),
        (ASK | {"top_logprobs": 3}, 422, "top_logprobs"),
        (ASK | {"logit_bias": {"x": 1}}, 422, "logit_bias"),
        (ASK | {"tool_choice": "required"}, 422, "tool_choice"),
        (ASK | {"response_format": {"type": "json_schema"}}, 422, "response_format"),
        (ASK | {"stop": ["a"] * 99}, 422, "stop"),
        ([ASK], 422, None),
        ("text", 422, None),
    ],
)
def test_what_is_wrong_is_said_with_its_field(
    client: httpx2.Client, body: object, status: int, param: str | None
) -> None:
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == status, response.text
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400),
        (b"\xff\xfe", 400),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', 422),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}', 422),
        (
            json.dumps(ASK | {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]})
            .encode()
            .replace(b'"parameters": {}', b'"parameters": ' + b'{"a":' * 200 + b"1" + b"}" * 200),
            422,
        ),
    ],
)
def test_malformed_and_deep_bodies_are_refused(client: httpx2.Client, raw: bytes, status: int) -> None:
    response = client.post("/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    error_of(response)


def test_a_body_that_is_not_json_is_told_how_to_be() -> None:
    with serving(FakeBackend()) as client:
        response = client.post("/v1/chat/completions", content=json.dumps(ASK), headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in str(error_of(response)["message"])


def test_a_body_that_is_too_large_is_refused_by_its_head_and_by_its_length() -> None:
    backend = FakeBackend()
    with serving(backend, replace(CONFIG, max_body=2000)) as client:
        big = ASK | {"user": "x" * 3000}
        response = client.post("/v1/chat/completions", json=big)
        assert (response.status_code, error_of(response)["type"]) == (413, "request_too_large")

        def chunks() -> Iterator[bytes]:
            yield from [b"x" * 1000] * 4

        assert client.post("/v1/chat/completions", content=chunks()).status_code == 413
    assert backend.requests == []


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    with running({"m": FakeBackend()}, replace(CONFIG, body_timeout=0.2)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            answer = b""
            while more := slow.recv(4096):
                answer += more
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PromptTooLong("the messages are 9000 tokens; shorten them"), 400),
        (BadRequest("no"), 422),
        (UnsupportedModel("base has no chat template; use a chat model"), 422),
        (ApiError(503, "not yet", retry_after=7), 503),
        (RuntimeError("a secret of the prompt"), 500),
    ],
)
def test_what_the_backend_refuses_has_its_status(error: Exception, status: int) -> None:
    with serving(FakeBackend(error=error)) as client:
        response = client.post("/v1/chat/completions", json=ASK | {"stream": True})
    assert response.status_code == status
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == ("7" if status == 503 else None)
    error_of(response)


def test_a_failing_engine_ends_the_stream_with_a_reason() -> None:
    script = [Event("content", "It", (1,)), RuntimeError("a secret of the prompt")]
    with serving(FakeBackend(script)) as client:
        text = client.post("/v1/chat/completions", json=ASK | {"stream": True}).text
        whole = client.post("/v1/chat/completions", json=ASK)
    assert '"finish_reason":"insufficient_system_resource"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert "secret" not in text + whole.text
    assert whole.status_code == 500


def test_a_reply_that_breaks_before_its_first_token_has_its_status() -> None:
    with serving(FakeBackend([ApiError(400, "too long for the upstream", param="messages")])) as client:
        for stream in (True, False):
            response = client.post("/v1/chat/completions", json=ASK | {"stream": stream})
            assert response.status_code == 400
            assert error_of(response)["param"] == "messages"
        assert client.get("/api/usage").json() == []  # and costs nothing


def test_a_message_that_breaks_before_its_first_token_has_anthropics_status() -> None:
    with serving(FakeBackend([ApiError(503, "the upstream is away", retry_after=5)])) as client:
        for stream in (True, False):
            response = client.post("/v1/messages", json=ASK | {"stream": stream, "max_tokens": 9})
            assert response.status_code == 529
            assert response.json()["error"]["type"] == "overloaded_error"
            assert response.json()["request_id"] == response.headers["request-id"]


def test_silence_is_filled_with_signs_of_life() -> None:
    script = [0.3, *spoken()]
    with serving(FakeBackend(script), replace(CONFIG, keep_alive=0.05)) as client:
        text = client.post("/v1/chat/completions", json=ASK | {"stream": True}).text
        whole = client.post("/v1/chat/completions", json=ASK)
    assert ": keep-alive\n\n" in text
    assert whole.text.startswith("\n")
    assert whole.json()["choices"][0]["message"]["content"] == "It is 23."


def test_a_client_that_goes_away_frees_its_slot() -> None:
    endless = [Event("content", "a", (1,)), 60.0, finish()]
    backend = FakeBackend(endless)
    with serving(backend, replace(CONFIG, slots=1)) as client:
        for number, stream in enumerate((True, False), 1):
            with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as gone:
                body = json.dumps(ASK | {"stream": stream}).encode()
                head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                wait_until(lambda: backend.running == 1)
            wait_until(lambda: backend.running == 0)
            assert backend.cancelled == number


def test_a_client_that_does_not_read_keeps_no_slot() -> None:
    """A long reply to somebody who never takes it off the connection ends all the same."""
    backend = FakeBackend([*[Event("content", "x" * 10_000, (1,))] * 2000, finish()])
    with (
        serving(backend, replace(CONFIG, slots=1)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0)) as deaf,
    ):
        body = json.dumps(ASK | {"stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        deaf.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(backend.requests) == 1 and backend.running == 0)
        backend.script = spoken()
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200


def test_limits_and_the_queue_refuse_before_the_first_byte() -> None:
    slow = FakeBackend([Event("content", "a", (1,)), 60.0])
    config = replace(CONFIG, slots=1, queue=1)
    with serving(slow, config) as client:
        socks = []
        for waiting in range(2):
            sock = socket.create_connection((client.base_url.host, client.base_url.port or 0))
            body = json.dumps(ASK | {"stream": True}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = sock.recv(4096)
            assert b"200 OK" in answer
            assert f"x-queue-position: {waiting}\r\n".encode() in answer
            socks.append(sock)
        refused = client.post("/v1/chat/completions", json=ASK | {"stream": True})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert error_of(refused)["type"] == "overloaded_error"
        for sock in socks:
            sock.close()


def test_a_page_of_another_site_is_refused(client: httpx2.Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        response = client.post("/v1/chat/completions", json=ASK, headers=headers)
        assert (response.status_code, error_of(response)["type"]) == (403, "permission_error")
    assert client.get("/healthz", headers={"Origin": "http://localhost:3000"}).status_code == 200


def test_models_balance_and_health(client: httpx2.Client) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["m", "m-chat", "m-reasoner", "deepseek-chat", "deepseek-reasoner"]
    assert client.get("/v1/models/m-chat").json()["id"] == "m-chat"
    assert client.get("/v1/models/none").status_code == 404
    assert client.get("/user/balance").json() == {"is_available": True, "balance_infos": []}
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200


def test_what_is_not_there_is_told_in_the_same_shape(client: httpx2.Client) -> None:
    assert error_of(client.get("/v1/nothing"))["type"] == "not_found_error"
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/readyz").status_code == 200


def test_a_model_that_is_not_there_yet() -> None:
    with serving(FakeBackend(not_ready="m is still being loaded")) as client:
        response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"] == "m is still being loaded"


def test_a_database_that_is_down(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hanging = threading.Event()
    with serving(FakeBackend()) as client:
        monkeypatch.setattr(Database, "why_not", lambda self: "no host db.example")
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "database" in response.json()["reason"]
        assert "example" not in response.text
        assert "no host db.example" in caplog.text
        monkeypatch.setattr("millet.serve.routes.health.PATIENCE", 0.1)
        monkeypatch.setattr(Database, "why_not", lambda self: hanging.wait(10))
        assert client.get("/readyz").status_code == 503
        hanging.set()
        monkeypatch.undo()
        wait_until(lambda: client.get("/readyz").status_code == 200)


def test_limits_hold_in_one_person_mode_too() -> None:
    config = replace(CONFIG, limits=Limits(requests_per_minute=1))
    with serving(FakeBackend(), config) as client:
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200
        refused = client.post("/v1/chat/completions", json=ASK)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 50


def test_a_server_that_is_stopped_ends_every_stream() -> None:
    backend = FakeBackend([Event("content", "It ", (1,)), 60.0, finish()])
    texts: list[str] = []
    with running({"m": backend}, replace(CONFIG, slots=1)) as url:

        def read() -> None:
            texts.append(httpx2.post(f"{url}/v1/chat/completions", json=ASK | {"stream": True}, timeout=30).text)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(backend.requests) == 2 and backend.running == 1)
    for thread in threads:
        thread.join(10)
    assert len(texts) == 2  # one that ran, one that waited
    for text in texts:
        assert '"finish_reason":"insufficient_system_resource"' in text
        assert text.endswith("data: [DONE]\n\n")

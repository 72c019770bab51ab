"""Clients that mean harm, or are broken: each gets a clear refusal or a closed connection, no engine time is spent, and
the server lives."""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from millet.serve import guard, server
from millet.serve.config import ServeConfig
from tests.serve.fakes import FakeBackend, finish, running, spoken

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "What is 15 + 8?"}]}
CHAT = "/v1/chat/completions"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
UNUSUAL = [
    "\x00",
    "\u202e\u2066",
    "\ufeff",
    "e" + "\u0301" * 5000,
    "\U0010ffff",
    "\U0001f469\u200d\U0001f4bb",
    "\u2028",
]


@dataclass
class Target:
    url: str
    backend: FakeBackend

    def connect(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def post(self, body: Any, path: str = CHAT) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=20)


@pytest.fixture(scope="module")
def server_of_module() -> Iterator[Target]:
    backend = FakeBackend()
    with running({"m": backend}, ServeConfig(port=0, body_timeout=0.5)) as url:
        yield Target(url, backend)


@pytest.fixture
def target(server_of_module: Target) -> Iterator[Target]:
    """After each test, it still answers."""
    server_of_module.backend.requests.clear()
    server_of_module.backend.script = spoken()
    yield server_of_module
    server_of_module.backend.script = spoken()
    assert server_of_module.post(ASK).status_code == 200


def head(length: int | None = None, *lines: str, path: str = CHAT, method: str = "POST") -> bytes:
    sized = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *sized, *lines, "", ""]
    ).encode("latin-1")


def all_of(sock: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    answer = b""
    try:
        while more := sock.recv(65536):
            answer += more
    except ConnectionError:
        pass  # closed while some of ours was still on its way
    return answer


def said(target: Target, *parts: bytes) -> bytes:
    with target.connect() as sock:
        try:
            for part in parts:
                sock.sendall(part)
        except ConnectionError:
            pass  # it did not want to hear more
        return all_of(sock)


def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.01)


def refused(answer: bytes) -> bool:
    """With a 4xx, or by closing the connection."""
    return answer == b"" or answer.startswith(b"HTTP/1.1 4")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# Heads


def test_headers_without_end_are_refused(target: Target) -> None:
    answer = said(target, head()[:-2], *[f"X-{number}: {'y' * 1000}\r\n".encode() for number in range(2000)])
    assert refused(answer)
    assert target.backend.requests == []


def test_one_endless_line_is_refused(target: Target) -> None:
    assert refused(said(target, b"GET /" + b"a" * 500_000))
    assert refused(said(target, b"GET / HTTP/1.1\r\nX: " + b"a" * 500_000))


def test_half_a_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.2)
    with running({"m": FakeBackend()}) as url:
        target = Target(url, FakeBackend())
        for part in (b"", b"POST ", head()[:-4], head(path="/healthz", method="GET") + b"GET /hea"):
            with target.connect() as sock:
                sock.sendall(part)
                answer = all_of(sock)
            assert b"HTTP/1.1 408 " in answer
        with target.connect() as sock, pytest.raises(ConnectionError):  # a byte now and then does not put it off
            drip(sock, head()[:-2] * 100)
        assert httpx2.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1e3\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: wonderful\r\n\r\n",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(target: Target, raw: bytes) -> None:
    assert refused(said(target, raw))
    assert target.backend.requests == []


# Bodies


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nabc",  # less than it says, and then nothing
        b"5\r\nabcdefgh\r\n0\r\n\r\n",  # more
        b"xyz\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nabc",
        b"-1\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_chunks_that_lie_about_their_length_are_refused(target: Target, chunks: bytes) -> None:
    assert refused(said(target, head(None, "Transfer-Encoding: chunked") + chunks))
    assert target.backend.requests == []


def test_a_body_without_end_is_refused(target: Target) -> None:
    answer = said(target, head(None, "Transfer-Encoding: chunked"), *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 100)
    assert refused(answer)
    assert target.backend.requests == []


def test_bodies_that_never_end_do_not_fill_the_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HELD", 1500)
    with running({"m": FakeBackend()}, ServeConfig(port=0, body_timeout=30)) as url:
        target = Target(url, FakeBackend())
        with target.connect() as first, target.connect() as second:
            first.sendall(head(2000) + b" " * 1000)
            second.sendall(head(2000) + b" " * 1000)
            (refused_one,), _, _ = select.select([first, second], [], [], 20)
            assert b" 503 " in all_of(refused_one).splitlines()[0]
            assert target.post(ASK).status_code == 200


def test_requests_in_a_pipeline_are_answered_in_turn(target: Target) -> None:
    body = json.dumps(ASK).encode()
    with target.connect() as sock:
        sock.sendall((head(len(body)) + body) * 20 + head(0, "Connection: close", path="/healthz", method="GET"))
        answer = all_of(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 21
    assert answer.endswith(b'{"status":"ok"}')
    assert len(target.backend.requests) == 20


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (ASK | {"stop": ["x"] * 100_000}, 422),
        (ASK | {"messages": ASK["messages"] * 10_000}, 422),
        (ASK | {"tools": [{"type": "function", "function": {"name": "f"}}] * 10_000}, 422),
        (ASK | {"tools": [{"type": "function", "function": {"name": "f" * 100_000}}]}, 422),
        (ASK | {"logit_bias": {str(number): 1 for number in range(10_000)}}, 422),
        (ASK | {"logit_bias": {"9" * 5000: 1}}, 422),
        (ASK | {"seed": 10**30}, 422),
        (ASK | {"max_tokens": 10**30}, 422),
        (ASK | {"model": "m" * 1_000_000}, 404),
        (ASK | {"messages": [{"role": "user", "content": [{"type": "text"}] * 10_000}]}, 422),
        ({"model": "m", "input": [{"role": "user", "content": "x"}] * 10_000}, 422),
    ],
    ids=range(11),
)
def test_far_too_much_of_something_is_refused(target: Target, body: dict[str, Any], status: int) -> None:
    path = "/v1/responses" if "input" in body else CHAT
    response = target.post(body, path)
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert len(error["message"]) < 500
    assert "\n" not in error["message"]
    assert target.backend.requests == []


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
def test_schemas_that_nest_too_deeply_are_refused(target: Target, path: str) -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    tool: dict[str, Any] = {
        CHAT: {"type": "function", "function": {"name": "f", "parameters": deep}},
        "/v1/messages": {"name": "f", "input_schema": deep},
        "/v1/responses": {"type": "function", "name": "f", "parameters": deep},
    }[path]
    body = ASK | {"max_tokens": 5, "input": "x", "tools": [tool]}
    response = target.post(body, path)
    assert response.status_code == 422 if path != "/v1/messages" else 400
    assert "levels deep" in response.json()["error"]["message"]
    assert target.backend.requests == []


@pytest.mark.parametrize("text", UNUSUAL)
@pytest.mark.parametrize("stream", [False, True])
def test_unusual_characters_go_through(target: Target, text: str, stream: bool) -> None:
    """They are what somebody wrote; nothing is wrong with them."""
    target.backend.script = spoken(text, text)
    response = target.post(ASK | {"messages": [{"role": "user", "content": text}], "stream": stream, "user": text})
    assert response.status_code == 200
    assert target.backend.requests[0].messages[0]["content"] == text
    data = response.text.split("\n")[2].removeprefix("data: ") if stream else response.text
    (choice,) = json.loads(data)["choices"]
    assert choice["delta" if stream else "message"]["reasoning_content"] == text


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../../etc/passwd",
        "/v1/models/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/models/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models//etc/passwd",
        "/v1/models/m%00",
        "/v1/models/%ff%fe",
        "/v1/models/" + "a" * 50_000,
        "/v1/models/%",
        "/assets/../../app.py",
        "/../unbuilt.html",
        "/..%2funbuilt.html",
        "/..%5c..%5cunbuilt.html",
        "/web.css%00",
        "/" + "a" * 5_000 + ".js",
        "//evil.example/healthz",
    ],
)
def test_paths_lead_nowhere_else(target: Target, path: str) -> None:
    answer = said(target, head(None, "Connection: close", path=path, method="GET"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    body = answer.split(b"\r\n\r\n", 1)[1]
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert b"root:" not in answer


# Connections


def test_many_who_leave_at_some_moment(target: Target, seed: int) -> None:
    generator = random.Random(seed)
    target.backend.script = [0.05, *spoken()[:-1], 0.05, finish()]
    request = json.dumps(ASK | {"stream": True}).encode()
    whole = head(len(request)) + request
    socks = []
    for _ in range(100):
        sock = target.connect()
        sock.sendall(whole[: generator.choice([0, 1, 50, len(whole) - 1, len(whole), len(whole)])])
        if generator.random() < 0.5:  # at once and with a reset, as a program that crashes
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        socks.append(sock)
        if generator.random() < 0.7:
            socks.pop(generator.randrange(len(socks))).close()
    for sock in socks:
        sock.close()
    wait_until(lambda: target.backend.running == 0)


def test_a_client_that_closes_its_writing_side_is_answered_or_let_go(target: Target) -> None:
    body = json.dumps(ASK).encode()
    with target.connect() as sock:
        sock.sendall(head(len(body), "Connection: close") + body)
        sock.shutdown(socket.SHUT_WR)
        answer = all_of(sock)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: target.backend.running == 0)

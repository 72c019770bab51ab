"""Clients that cost little: they share two cores with the server that they measure.

They write prepared bytes and keep what comes. Until a stream's first token they count its events, afterwards nothing is
looked at but the end; JSON is read when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from millet.errors import MilletError

END = b"\r\n0\r\n\r\n"  # of a chunked body; JSON never has these bytes
EVENT = b"data: "
OK = b"HTTP/1.1 200"
LIMIT = 120.0  # seconds that one reply may take


@dataclass(frozen=True, slots=True)
class Exchange:
    """first_token: seconds from sending the request to the first token, nothing where it was not streamed; seconds: to
    the end. raw: head and chunked body."""

    first_token: float
    seconds: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """What a stream said: its text, thought included, and how many tokens the server says it generated."""

    text: str
    tokens: int


class Connection(asyncio.Protocol):
    """One connection, kept from request to request."""

    def __init__(self) -> None:
        self.lost = False
        """The server ended it."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._sent = self._first = 0.0
        self._idle = False
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Exchange:
        """Send a request and wait for the end of its reply. Raises MilletError when it is refused or breaks off."""
        await self._send(request)
        ended = time.perf_counter()
        return Exchange(self._first and self._first - self._sent, ended - self._sent, bytes(self._buffer))

    async def idle(self, request: bytes) -> None:
        """Send a request and wait for the first token of a stream; what follows is thrown away as it comes."""
        self._idle = True
        await self._send(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, request: bytes) -> None:
        assert self._transport is not None
        self._buffer.clear()
        self._first = 0.0
        self._waiter = asyncio.get_running_loop().create_future()
        self._sent = time.perf_counter()
        self._transport.write(request)
        try:
            async with asyncio.timeout(LIMIT):
                await self._waiter
        except TimeoutError:
            raise MilletError(f"a reply had not ended after {LIMIT:.0f} s") from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        buffer = self._buffer
        buffer += data
        if not self._first and buffer.count(EVENT) > 1:  # the first event says only that the reply has begun
            self._first = time.perf_counter()
        if len(buffer) >= len(OK) and not buffer.startswith(OK):
            if buffer.endswith(b"}"):  # of the error, whose body may come after its head
                self._fail(buffer.decode("utf-8", "replace").splitlines()[-1])
        elif buffer.endswith(END) or (self._idle and self._first):
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._fail("the connection ended")

    def _fail(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(MilletError(f"the server that is measured refused or broke off: {reason}"))


async def drive(port: int, scripts: Sequence[Sequence[bytes]]) -> list[list[Exchange]]:
    """One client for each script, all at once; each sends its requests one after the other."""
    connections = [await Connection.open(port) for _ in scripts]

    async def client(connection: Connection, requests: Sequence[bytes]) -> list[Exchange]:
        return [await connection.ask(request) for request in requests]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(*pair)) for pair in zip(connections, scripts, strict=True)]
        return [task.result() for task in tasks]
    except* MilletError as failed:
        raise failed.exceptions[0] from None
    finally:
        for connection in connections:
            connection.close()


def post(body: Mapping[str, Any]) -> bytes:
    """A chat request as bytes."""
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def told(raw: bytes) -> Told:
    """What a stream with its usage in the last chunk has said."""
    text, tokens = "", 0
    for line in body_of(raw).split(b"\n"):
        if not line.startswith(EVENT) or line.endswith(b"[DONE]"):
            continue
        chunk = json.loads(line.removeprefix(EVENT))
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            text += (delta.get("reasoning_content") or "") + (delta.get("content") or "")
    return Told(text, tokens)


def body_of(raw: bytes) -> bytes:
    """The body of a chunked response."""
    rest = raw.partition(b"\r\n\r\n")[2]
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(parts)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of all values does not exceed."""
    return sorted(values)[ceil(share * len(values)) - 1]

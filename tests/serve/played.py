"""Other OpenAI-compatible servers, played on loopback byte by byte, and an `Upstream` in front of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from millet.reasoning.reply import Event, Reply
from millet.serve.chat import ChatRequest
from millet.serve.config import UpstreamConfig
from millet.serve.errors import ApiError
from millet.serve.upstream import Upstream

KEY = "sk-secret-271828"
ASK = ({"role": "user", "content": "What is 15 + 8?"},)
Script = Sequence[bytes | float]  # what to send, and seconds to wait; then the connection ends


def head(status: int = 200, kind: str = "text/event-stream", more: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n{more}\r\n".encode()


def sse(*chunks: dict[str, Any] | str) -> bytes:
    return "".join(f"data: {c if isinstance(c, str) else json.dumps(c)}\n\n" for c in chunks).encode()


def delta(index: int = 0, finish: str | None = None, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def counted(**usage: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}


COUNTED = counted(prompt_tokens=12, completion_tokens=8, total_tokens=20)
PLAIN = head() + sse(delta(role="assistant", content=""), delta(content="23"), delta(finish="stop"), COUNTED, "[DONE]")


def refusal(status: int, error: Any, more: str = "") -> bytes:
    return head(status, "application/json", more) + json.dumps(error).encode()


@dataclass
class Played:
    """script: the answer to every request for a reply; health: the status of GET /models."""

    script: Script = (PLAIN,)
    health: int = 200
    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode()
        if asked.startswith("GET"):
            writer.write(head(self.health, "application/json", "Content-Length: 2\r\n") + b"{}")
        else:
            length = next(int(line[15:]) for line in asked.lower().split("\r\n") if line.startswith("content-length:"))
            self.bodies.append(json.loads(await reader.readexactly(length)))
            self.paths.append(asked.split(" ")[1])
            self.headers.append(asked)
            await self._play(reader, writer)

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = asyncio.create_task(reader.read(1))
        self.tasks.add(left)
        for step in self.script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await asyncio.wait({left}, timeout=step)
            if left.done():
                self.gone.set()
                return


@asynccontextmanager
async def playing(script: Script = (PLAIN,), health: int = 200) -> AsyncIterator[Played]:
    played = Played(script, health)
    server = await asyncio.start_server(played.answer, "127.0.0.1", 0)
    played.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield played
    finally:
        server.close()
        for task in played.tasks:
            task.cancel()
        await asyncio.gather(*played.tasks, return_exceptions=True)


async def refusing() -> str:
    """The address of a port where nobody listens."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def upstream(
    *urls: str, dialect: Any = "openai", key_env: str | None = None, **more: Any
) -> AsyncIterator[Upstream]:
    made = Upstream("far", UpstreamConfig(urls, "their-name", key_env, dialect), **more)
    try:
        yield made
    finally:
        await made.client.aclose()


def ask(messages: tuple[dict[str, Any], ...] = ASK, **options: Any) -> ChatRequest:
    return ChatRequest("far", messages, options)  # type: ignore[arg-type]


async def events_of(made: Upstream, request: ChatRequest) -> list[Event]:
    prepared = await made.prepare(request)
    return [event async for event in prepared.stream()]


async def told(script: Script, request: ChatRequest | None = None, **more: Any) -> Reply:
    async with playing(script) as played, upstream(played.url, **more) as made:
        return Reply.of(await events_of(made, request or ask()))


async def failure(script: Script, request: ChatRequest | None = None, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await told(script, request, **more)
    return caught.value


async def sent(dialect: str, request: ChatRequest) -> dict[str, Any]:
    async with playing() as played, upstream(played.url, dialect=dialect) as made:
        await events_of(made, request)
    return played.bodies[0]

"""A backend that says what a test tells it to, and a real server on loopback around it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from millet.reasoning.reply import Event, Usage
from millet.serve.app import create_app
from millet.serve.chat import Backend, ChatRequest, ModelStatus
from millet.serve.config import ServeConfig
from millet.serve.server import Server, listen
from millet.serve.store import Store


def finish(reason: str = "stop", *, index: int = 0, prompt: int = 10, tokens: int = 7, reasoning: int = 3) -> Event:
    usage = Usage(prompt_tokens=prompt, completion_tokens=tokens, reasoning_tokens=reasoning, cached_tokens=4)
    return Event("finish", index=index, finish_reason=reason, usage=usage)


def spoken(reasoning: str = "15 + 8 = 23", content: str = "It is 23.") -> list[Event | Exception | float]:
    events = [Event("reasoning", word, (1,)) for word in pieces(reasoning)]
    events += [Event("content", word, (2,)) for word in pieces(content)]
    return [*events, finish(tokens=len(events), reasoning=len(pieces(reasoning)))]


def pieces(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:] if text else []


@dataclass
class FakeBackend:
    """script: events, seconds to wait, and what breaks the reply. error: what `prepare` raises. told: its
    status, if another than `not_ready` says."""

    script: Sequence[Event | Exception | float] = field(default_factory=spoken)
    error: Exception | None = None
    not_ready: str | None = None
    requests: list[ChatRequest] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    prompt_tokens: int = 10
    told: ModelStatus | None = None

    async def prepare(self, request: ChatRequest) -> FakeReply:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return FakeReply(self, request.options.get("max_tokens") or 100)

    async def ready(self) -> str | None:
        return self.not_ready

    def status(self) -> ModelStatus:
        return self.told or ModelStatus("ready" if self.not_ready is None else "loading")

    async def load(self) -> None: ...

    def close(self) -> None: ...


class FakeReply:
    def __init__(self, backend: FakeBackend, max_tokens: int) -> None:
        self.backend = backend
        self.prompt_tokens = backend.prompt_tokens
        self.max_tokens = max_tokens

    def token_bytes(self, token_id: int) -> bytes:
        return f"<{token_id}>".encode()

    async def stream(self) -> AsyncGenerator[Event, None]:
        self.backend.running += 1
        ended = False
        try:
            for step in self.backend.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    ended = step.kind == "finish"
                    yield step
        finally:
            self.backend.running -= 1
            self.backend.cancelled += not ended


@contextlib.contextmanager
def running(backends: Mapping[str, Backend], config: ServeConfig | None = None) -> Iterator[str]:
    """The base URL of a server that lives as long as the block. Its database is of its own, unless config has one."""
    settings = config or ServeConfig(port=0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = stack.enter_context(Store.open(settings.database or f"sqlite:///{folder}/millet.db"))
        listener = stack.enter_context(listen(settings))
        app = create_app(settings, backends, store)
        server = Server(app, settings)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started, "the server did not start"
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

"""`python -m millet.bench.stub STREAMS`: the server around an engine that costs nothing, to measure what is left.

The model "instant" answers at once; "endless" streams a token every second for ever.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from millet.reasoning.reply import Event, Usage
from millet.serve import logs
from millet.serve.app import create_app
from millet.serve.chat import ChatRequest, ModelStatus
from millet.serve.config import ServeConfig
from millet.serve.server import Server, listen
from millet.serve.store import Store

TOKENS = 16  # of an instant reply
PROMPT = 10
ROOM = 64  # requests at once beside the streams


class Instant:
    """A backend whose replies are there at once."""

    async def prepare(self, request: ChatRequest) -> InstantReply:
        return InstantReply()

    async def load(self) -> None: ...

    async def ready(self) -> str | None:
        return None

    def status(self) -> ModelStatus:
        return ModelStatus("ready")

    def close(self) -> None: ...


class Endless(Instant):
    """A backend whose replies never end."""

    async def prepare(self, request: ChatRequest) -> EndlessReply:
        return EndlessReply()


class InstantReply:
    def __init__(self) -> None:
        self.prompt_tokens = PROMPT
        self.max_tokens = TOKENS
        self.token_bytes: Callable[[int], bytes] = lambda token_id: b"word "

    async def stream(self) -> AsyncGenerator[Event, None]:
        for number in range(TOKENS):
            yield _token(number)
        yield Event("finish", finish_reason="stop", usage=Usage(PROMPT, TOKENS))


class EndlessReply(InstantReply):
    async def stream(self) -> AsyncGenerator[Event, None]:
        yield _token(0)
        await asyncio.sleep(random.random())  # else all streams that began together speak at the same moment for ever
        number = 0
        while True:
            number += 1
            yield _token(number)
            await asyncio.sleep(1.0)


def _token(number: int) -> Event:
    return Event("content", f"word{number} ", (number,))


def main() -> None:
    config = ServeConfig(port=0, slots=int(sys.argv[1]) + ROOM)
    with (
        tempfile.TemporaryDirectory() as folder,
        listen(config) as listener,
        Store.open(f"sqlite:///{Path(folder) / 'millet.db'}") as store,
    ):
        app = create_app(config, {"instant": Instant(), "endless": Endless()}, store)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        logs.configure()
        Server(app, config, on_open=lambda: print(url, file=sys.stderr, flush=True)).run(sockets=[listener])


if __name__ == "__main__":
    main()

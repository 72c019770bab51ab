"""The engine of this process as a backend: real steps of a small random model, from the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import cast

import pytest

from millet.engine.engine import Engine
from millet.errors import MilletError, PromptTooLong, UnknownModel
from millet.models.tokenizer import Tokenizer
from millet.reasoning.assistant import Assistant, Options
from millet.reasoning.reply import Event
from millet.serve.chat import ChatRequest
from millet.serve.embedded import Embedded, News
from millet.serve.errors import ApiError
from tests.reasoning.toys import toy_model


@pytest.fixture
def backend(seed: int) -> Iterator[Embedded]:
    backend = Embedded.of(Assistant(Engine(toy_model(seed))), "toy")
    yield backend
    backend.close()


def ask(text: str = "Hello?", **options: object) -> ChatRequest:
    given = {"max_tokens": 20, "think": "off", "seed": 1, **options}
    return ChatRequest("toy", ({"role": "user", "content": text},), cast(Options, given))


async def collect(backend: Embedded, request: ChatRequest) -> list[Event]:
    prepared = await backend.prepare(request)
    return [event async for event in prepared.stream()]


def test_events_are_those_of_the_assistant(backend: Embedded) -> None:
    assistant = backend._assistant
    assert assistant is not None
    expected = list(assistant.stream(ask().messages, max_tokens=20, think="off", seed=1))
    events = asyncio.run(collect(backend, ask()))
    assert "".join(e.text for e in events) == "".join(e.text for e in expected)
    assert events[-1].usage is not None
    assert expected[-1].usage is not None
    assert events[-1].usage.completion_tokens == expected[-1].usage.completion_tokens


def test_many_streams_at_once_each_get_their_own(backend: Embedded) -> None:
    async def together() -> list[list[Event]]:
        return list(await asyncio.gather(*(collect(backend, ask(f"Question {i}", n=2)) for i in range(12))))

    async def alone() -> list[list[Event]]:
        return [await collect(backend, ask(f"Question {i}", n=2)) for i in range(12)]

    def texts(replies: list[list[Event]]) -> list[list[str]]:
        return [["".join(e.text for e in events if e.index == i) for i in range(2)] for events in replies]

    assert texts(asyncio.run(together())) == texts(asyncio.run(alone()))


def test_the_first_and_the_last_come_at_once_and_the_rest_together(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(News, "PACE", 3600.0)
    assert "".join(event.text for event in asyncio.run(collect(backend, ask())))  # no hour has passed

    async def wakings() -> int:
        prepared = await backend.prepare(ask(max_tokens=60))
        woken = 0
        async for batch in batched(prepared.stream()):
            woken += bool(batch)
        return woken

    async def batched(events: AsyncGenerator[Event, None]) -> AsyncGenerator[list[Event], None]:
        """What comes without a wait in between."""
        batch: list[Event] = []
        pending = asyncio.ensure_future(anext(events, None))
        while True:
            await asyncio.sleep(0)
            if not pending.done():
                yield batch
                batch = []
                await asyncio.wait({pending})
            event = pending.result()
            if event is None:
                yield batch
                return
            batch.append(event)
            pending = asyncio.ensure_future(anext(events, None))

    assert asyncio.run(wakings()) <= 3


def test_closing_a_stream_frees_the_engine(backend: Embedded) -> None:
    async def begin_and_leave() -> None:
        prepared = await backend.prepare(ask(max_tokens=400))
        stream = prepared.stream()
        await anext(stream)
        await stream.aclose()

    asyncio.run(begin_and_leave())
    assistant = backend._assistant
    assert assistant is not None
    deadline = time.monotonic() + 5
    while (stats := assistant.engine.stats())["running"] or stats["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_text_that_cannot_fit_is_not_even_tokenized(backend: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(backend.prepare(ask("x" * 400))).prompt_tokens < 512
    monkeypatch.setattr(Tokenizer, "encode", None)
    monkeypatch.setattr(Tokenizer, "encode_plain", None)
    for request in (ask("x" * 1_000_000), ChatRequest("toy", prompt="x" * 1_000_000)):
        with pytest.raises(PromptTooLong, match=r"10000\d\d characters"):
            asyncio.run(backend.prepare(request))


def test_what_cannot_be_answered_is_found_before_engine_time(backend: Embedded) -> None:
    with pytest.raises(PromptTooLong):
        asyncio.run(backend.prepare(ask("word " * 2000)))
    with pytest.raises(MilletError):
        asyncio.run(backend.prepare(ask(temperature=-1.0)))
    assistant = backend._assistant
    assert assistant is not None
    assert assistant.engine.stats()["steps"] == 0


def test_a_broken_engine_is_heard_of(backend: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = backend._assistant
    assert assistant is not None

    def broken() -> None:
        raise RuntimeError("the step failed")

    monkeypatch.setattr(assistant.engine._runner, "step", broken)
    with pytest.raises(RuntimeError, match="the step failed"):
        asyncio.run(collect(backend, ask()))


def test_a_closed_engine_refuses(backend: Embedded) -> None:
    async def late() -> None:
        prepared = await backend.prepare(ask())
        backend.close()
        async for _ in prepared.stream():
            pass

    with pytest.raises(MilletError, match="closed"):
        asyncio.run(late())


def test_until_it_is_loaded_it_asks_for_patience() -> None:
    backend = Embedded("smollm2-135m")
    assert asyncio.run(backend.ready()) == "smollm2-135m is still being loaded"
    with pytest.raises(ApiError) as refusal:
        asyncio.run(backend.prepare(ask()))
    assert (refusal.value.status, refusal.value.headers) == (503, {"Retry-After": "5"})


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    backend = Embedded("no-such-model")
    with pytest.raises(UnknownModel):
        asyncio.run(backend.load())
    assert "no-such-model" in str(asyncio.run(backend.ready()))


def test_a_bug_while_loading_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Embedded) -> Assistant:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Embedded, "_load", broken)
    backend = Embedded("smollm2-135m")
    with pytest.raises(RuntimeError):
        asyncio.run(backend.load())
    assert asyncio.run(backend.ready()) == "smollm2-135m could not be loaded"

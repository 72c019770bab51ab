"""A reply without a thread of its own: polled when the engine's thread says that there is something."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from millet.engine.engine import Completion, Engine
from millet.errors import BadRequest
from millet.reasoning.assistant import Assistant, Event, Prepared, Reply
from tests.reasoning.fakes import ASK, CLOSE_ID, END, PREOPENED, Pieces, assistant
from tests.reasoning.toys import toy_model


@pytest.fixture
def someone(seed: int) -> Iterator[Assistant]:
    with Engine(toy_model(seed), cache_tokens=4096) as engine:
        yield Assistant(engine)


async def polled(prepared: Prepared) -> list[Event]:
    """All events, in the way of an event loop's one thread."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    run = prepared.start(lambda: loop.call_soon_threadsafe(news.set))
    events: list[Event] = []
    while not run.done:
        await asyncio.wait_for(news.wait(), 30)
        news.clear()
        events += run.poll()
    assert run.poll() == []
    return events


def said(events: list[Event], index: int) -> tuple[Any, ...]:
    reply = Reply.of(event for event in events if event.index == index)
    return reply.reasoning, reply.content, reply.finish_reason, reply.usage


def test_many_replies_on_one_thread_are_those_of_the_stream(someone: Assistant) -> None:
    async def all_of_them() -> list[list[Event]]:
        prepared = [
            someone.prepare(ASK, n=n, seed=n, max_tokens=20 + n, think="on", temperature=1.0) for n in (1, 2, 3)
        ]
        return await asyncio.gather(*map(polled, prepared * 4))

    for events in asyncio.run(all_of_them()):
        samples = {event.index for event in events}
        n = len(samples)
        streamed = list(someone.stream(ASK, n=n, seed=n, max_tokens=20 + n, think="on", temperature=1.0))
        for index in samples:
            mine = [event for event in events if event.index == index]
            assert [event.kind for event in mine].index("finish") == len(mine) - 1
            assert said(events, index)[:3] == said(streamed, index)[:3]


def test_preparing_costs_no_engine_time_and_says_what_it_will_cost(someone: Assistant) -> None:
    prepared = someone.prepare(ASK, max_tokens=30)
    assert (prepared.prompt_tokens, prepared.max_tokens) == (len(prepared.prompt), 30)
    assert someone.prepare(ASK, max_tokens=9000).max_tokens == 512 - prepared.prompt_tokens
    with pytest.raises(BadRequest, match="n is 0"):
        someone.prepare(ASK, n=0)
    assert someone.engine.stats()["steps"] == 0
    with pytest.raises(BadRequest, match="chat gives one reply"):
        someone.chat(ASK, n=2)


def test_news_come_at_most_once_a_step(someone: Assistant) -> None:
    rung: list[int] = []
    last = threading.Event()
    run = someone.prepare(ASK, n=4, max_tokens=40, temperature=1.0).start(
        lambda: (rung.append(someone.engine.stats()["steps"]), last.set())  # type: ignore[func-returns-value]
    )
    while not run.done:
        assert last.wait(30)
        last.clear()
        run.poll()
    assert len(rung) == len(set(rung)) <= someone.engine.stats()["steps"]


def test_a_cancelled_reply_frees_its_cache_and_still_finishes(someone: Assistant) -> None:
    news = threading.Semaphore(0)
    run = someone.prepare(ASK, n=2, max_tokens=400, think="on", temperature=1.0).start(news.release)
    assert news.acquire(timeout=30)
    events = run.poll()
    run.cancel()
    while not run.done:
        assert news.acquire(timeout=30)
        events += run.poll()
    assert {event.finish_reason for event in events if event.kind == "finish"} == {"cancelled"}
    stats = someone.engine.stats()
    assert (stats["running"], stats["cache_free_tokens"]) == (0, 4096)


def test_a_failing_engine_is_heard_of(someone: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    news = threading.Semaphore(0)

    def broken() -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr(someone.engine._runner, "step", broken)
    run = someone.prepare(ASK).start(news.release)
    assert news.acquire(timeout=30)
    with pytest.raises(ArithmeticError, match="broken"):
        run.poll()
    monkeypatch.undo()
    assert someone.chat(ASK, max_tokens=3).usage.completion_tokens == 3


def test_a_listener_that_is_gone_cancels_its_reply_alone(someone: Assistant) -> None:
    def gone() -> None:
        raise RuntimeError("the event loop is closed")

    run = someone.prepare(ASK, max_tokens=400).start(gone)
    assert someone.chat(ASK, max_tokens=5).usage.completion_tokens == 5
    events = run.poll()
    assert run.done
    assert events[-1].finish_reason == "cancelled"
    assert someone.engine.stats()["cache_free_tokens"] == 4096


def test_log_probabilities_are_of_the_tokens_of_their_event(someone: Assistant, seed: int) -> None:
    """Whatever is forced, such as the end of a thought, and the same for the samples of one request."""
    generate = someone.engine.generate
    for trial in range(4):
        prepared = someone.prepare(
            ASK, think=9, max_tokens=40, n=2, seed=seed + trial, temperature=1.0, logprobs=True, top_logprobs=3
        )
        events = list(prepared.events())
        for index in range(2):
            mine = [event for event in events if event.index == index]
            ids = [i for event in mine for i in event.token_ids]
            scored = [score for event in mine for score in event.logprobs]
            assert [score.token_id for score in scored] == ids
            assert all(len(event.logprobs) == len(event.token_ids) for event in mine)
            own = someone.model.logprobs([[*prepared.prompt, *ids]])[0][-len(ids) :].tolist()
            assert [score.logprob for score in scored] == pytest.approx(own, abs=1e-4)
            assert all(dict(score.top).get(score.token_id, score.logprob) == score.logprob for score in scored)
            assert all(len(score.top) == 3 and score.top[0][1] >= score.logprob for score in scored)
            reply = Reply.of(mine)
            assert len(reply.logprobs) == len(ids) - reply.usage.reasoning_tokens
    assert generate([[1, 2]])[0][0].logprobs is None


@pytest.mark.parametrize(("said", "thought", "content", "ended"), [
    (["Let me see.\n", CLOSE_ID, "\n\n", "It is 42.", END], "Let me see.", "It is 42.", "model"),
    (["No end to it " * 40], "No end to it " * 39 + "No end to it", "", None),
    (["Half", END], "Half", "", "model"),
])  # fmt: skip
def test_what_a_trainer_sampled_reads_as_a_reply(
    said: list[str | int], thought: str, content: str, ended: str | None
) -> None:
    """Nothing was forced or forbidden, so nothing is added: a thought without an end has no answer behind it."""
    tokenizer = Pieces(marks=True)
    prepared = assistant(PREOPENED, [END], tokenizer=tokenizer).prepare(ASK, think="on", max_tokens=200)
    ids = tokenizer.script(*said)
    reply = prepared.read(Completion(ids, None, "stop", 11, 0))
    assert (reply.reasoning, reply.content) == (thought, content)
    assert reply.usage.completion_tokens == len(ids)
    if content:
        assert reply.thought_ended == ended

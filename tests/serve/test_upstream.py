"""Which server is asked, how it fails, and that nothing stays open."""

from __future__ import annotations

import asyncio

import pytest

from millet.reasoning.reply import Reply
from millet.serve.errors import ApiError
from tests.serve.played import (
    KEY,
    Script,
    ask,
    delta,
    events_of,
    failure,
    head,
    playing,
    refusal,
    refusing,
    sse,
    upstream,
)


@pytest.mark.asyncio
async def test_what_came_before_the_break_was_told() -> None:
    async with (
        playing([head() + sse(delta(content="It "), delta(content="is"))]) as played,
        upstream(played.url) as made,
    ):
        prepared = await made.prepare(ask())
        stream = prepared.stream()
        assert [(await anext(stream)).text for _ in range(2)] == ["It ", "is"]
        with pytest.raises(ApiError, match="ended in the middle"):
            await anext(stream)
        assert len(played.bodies) == 1  # never asked again


@pytest.mark.asyncio
async def test_refusals_are_passed_on_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    body = {"error": {"message": f"too long for {KEY}", "type": "x", "param": "messages", "code": "context_length"}}
    error = await failure([refusal(400, body)], key_env="FAR_KEY")
    assert (error.status, error.param, error.code, str(error)) == (
        400,
        "messages",
        "context_length",
        "too long for ...",
    )
    error = await failure([refusal(429, {"message": "slowly", "code": 429}, "Retry-After: 7\r\n")])
    assert (error.status, error.code, error.retry_after, str(error)) == (429, None, 7.0, "slowly")
    assert str(await failure([refusal(422, {"detail": "bad field"})])) == "bad field"
    assert (await failure([head(404, "text/html") + b"<nothing>"])).status == 404
    error = await failure([head() + sse({"error": {"message": "too long", "code": 400}})])
    assert (error.status, str(error)) == (400, "too long")
    for status in (401, 402, 403):  # the operator's matter: the client's own key is good
        error = await failure([refusal(status, body)], key_env="FAR_KEY")
        assert (error.status, error.code) == (503, "upstream_refused")
        assert KEY not in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("script", [[0.0], [head(503, "text/plain") + b"loading"], [b"garbage\r\n\r\n"]])
async def test_another_replica_is_asked_before_the_first_byte(script: Script) -> None:
    async with playing(script) as bad, playing() as good, upstream(await refusing(), bad.url, good.url) as made:
        assert Reply.of(await events_of(made, ask())).content == "23"
        assert (len(bad.bodies), len(good.bodies)) == (1, 1)
        assert [replica.fault is None for replica in made.replicas] == [False, False, True]
        await events_of(made, ask())
        assert (len(bad.bodies), len(good.bodies)) == (1, 2)  # it is known now which one is well
        assert await made.ready() is None


@pytest.mark.asyncio
async def test_nobody_answers() -> None:
    async with upstream(await refusing()) as made:
        with pytest.raises(ApiError, match="no server behind far") as caught:
            await events_of(made, ask())
        assert (caught.value.status, caught.value.code) == (503, "upstream_unavailable")
        assert await made.ready() == "no server behind far can be used: it does not answer"


@pytest.mark.asyncio
async def test_the_least_busy_replica_is_chosen() -> None:
    waiting = [head() + sse(delta(content="x")), 30.0]
    async with playing(waiting) as one, playing(waiting) as two, upstream(one.url, two.url) as made:
        streams = [(await made.prepare(ask())).stream() for _ in range(6)]
        for stream in streams:
            await anext(stream)
        assert (len(one.bodies), len(two.bodies)) == (3, 3)
        for stream in streams[::2]:
            await stream.aclose()
        assert [replica.outstanding for replica in made.replicas] == [0, 3]
        await anext(again := (await made.prepare(ask())).stream())
        assert (len(one.bodies), len(two.bodies)) == (4, 3)
        for stream in (again, *streams[1::2]):
            await stream.aclose()


@pytest.mark.asyncio
async def test_closing_closes_the_connection_at_once() -> None:
    async with playing([head() + sse(delta(content="x")), 60.0]) as played, upstream(played.url) as made:
        stream = (await made.prepare(ask())).stream()
        await anext(stream)
        assert not played.gone.is_set()
        await stream.aclose()
        await asyncio.wait_for(played.gone.wait(), 20)


@pytest.mark.asyncio
async def test_a_cancelled_wait_closes_the_connection() -> None:
    async with playing([60.0]) as played, upstream(played.url) as made:
        task = asyncio.create_task(events_of(made, ask()))
        while not played.bodies:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(played.gone.wait(), 20)
        assert made.replicas[0].outstanding == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("script", [[60.0], [head() + sse(delta(content="x")), 60.0]])
async def test_silence_has_an_end(script: Script) -> None:
    error = await failure(script, silence=0.2)
    assert (error.status, str(error)) == (503, "the server behind this model was silent for 0.2 seconds; try again")


@pytest.mark.asyncio
async def test_health_is_looked_after() -> None:
    async with playing(health=503) as played, upstream(played.url, check_every=0.01) as made:

        async def until(reason: str | None) -> None:
            while await made.ready() != reason:
                await asyncio.sleep(0.01)

        await made.load()
        await asyncio.wait_for(until("no server behind far can be used: it answers 503"), 20)
        played.health = 200
        await asyncio.wait_for(until(None), 20)
        played.health = 401
        await asyncio.wait_for(until("no server behind far can be used: it does not accept this server's key"), 20)
        made.close()
        assert made.closing is not None
        await made.closing

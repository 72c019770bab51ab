"""What other servers answer, each in its dialect, as events; and every way to break off."""

from __future__ import annotations

import random
from typing import Any

import pytest

from millet.reasoning.reply import Reply, ToolCall, Usage
from millet.serve.upstream_stream import ServerSentEvents
from tests.serve.played import (
    COUNTED,
    Script,
    ask,
    counted,
    delta,
    events_of,
    failure,
    head,
    playing,
    sse,
    told,
    upstream,
)


def thinking(field: str) -> list[dict[str, Any]]:
    return [
        delta(role="assistant", content=None, **{field: "15 + 8 "}),
        delta(**{field: "= 23"}),
        delta(content="It is 23."),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("dialect", "chunks", "usage"),
    [
        (
            "vllm",
            [*thinking("reasoning"), delta(finish="stop"), COUNTED],
            Usage(12, 8, reasoning_tokens=5),  # not told: two pieces of three
        ),
        (
            "sglang",
            [
                *thinking("reasoning_content"),
                delta(finish="stop"),
                counted(prompt_tokens=12, completion_tokens=8, reasoning_tokens=6, prompt_tokens_details=None),
            ],
            Usage(12, 8, reasoning_tokens=6),
        ),
        (
            "llama-server",
            [
                *thinking("reasoning_content"),
                delta(finish="stop"),
                counted(prompt_tokens=12, completion_tokens=8, prompt_tokens_details={"cached_tokens": 11})
                | {"timings": {"prompt_n": 1}},
            ],
            Usage(12, 8, reasoning_tokens=5, cached_tokens=11),
        ),
        (
            "deepseek",
            [
                *thinking("reasoning_content"),
                delta(finish="stop", content="", reasoning_content=None)
                | {
                    "usage": {
                        "prompt_tokens": 12,
                        "completion_tokens": 8,
                        "total_tokens": 20,
                        "prompt_tokens_details": {"cached_tokens": 4},
                        "completion_tokens_details": {"reasoning_tokens": 7},
                        "prompt_cache_hit_tokens": 4,
                        "prompt_cache_miss_tokens": 8,
                    }
                },
            ],
            Usage(12, 8, reasoning_tokens=7, cached_tokens=4),
        ),
    ],
)
async def test_thoughts_and_usage_of_each_server(dialect: Any, chunks: list[dict[str, Any]], usage: Usage) -> None:
    body = sse(*chunks, "[DONE]")
    if dialect == "deepseek":
        body = b": keep-alive\n\n: keep-alive\n\n" + body
    if dialect == "sglang":
        body = body.replace(b"\n", b"\r\n")
    reply = await told([head() + body], dialect=dialect)
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("15 + 8 = 23", "It is 23.", "stop")
    assert reply.usage == usage
    assert reply.thought_ended == "model"


@pytest.mark.asyncio
async def test_inline_marks_cut_anywhere() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    cases = {
        "<think>\n1 < 2, </thin\n</think>\n\nIt is <b>23</b>.": ("1 < 2, </thin\n", "It is <b>23</b>."),
        " <think>a</think>b</think>": ("a", "b</think>"),
        "<thin ice> is no mark": ("", "<thin ice> is no mark"),
        "Say <think> or </think>.": ("", "Say <think> or </think>."),
        "<think>never closed </th": ("never closed </th", ""),
        "<thi": ("", "<thi"),
        "<think></think>x": ("", "x"),
    }
    for text, (reasoning, content) in cases.items():
        for _ in range(4):
            cuts = sorted(rng.sample(range(1, len(text)), rng.randint(0, len(text) - 1)))
            parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            chunks = [*(delta(content=part) for part in parts), delta(finish="length"), "[DONE]"]
            reply = await told([head() + sse(*chunks)])
            assert (reply.reasoning, reply.content) == (reasoning, content), parts
            assert reply.usage.completion_tokens >= len(parts)


def test_server_sent_events_cut_anywhere() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stream = (
        b": hello\r\n\r\ndata: one\n\ndata:two\r\ndata: \xe4\xb8\xad\xe6\x96\x87 \xe2\x80\xa8 x\r\n\r\n"
        b"event: odd\nid: 3\ndata: three\n\n\n\nretry: 5\n\ndata\n\ndata: cr\r\rdata: last"
    )
    for _ in range(300):
        cuts = sorted(rng.sample(range(1, len(stream)), rng.randint(0, len(stream) - 1)))
        parser, got = ServerSentEvents(), []
        for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            got += parser.feed(stream[a:b])
        got += parser.end()
        assert got == ["one", "two\n中文 \u2028 x", "three", "cr", "last"]


@pytest.mark.asyncio
async def test_bytes_as_they_trickle_in() -> None:
    slow = head() + sse(delta(content="中"), delta(content="文"), delta(finish="stop"), COUNTED, "[DONE]")
    reply = await told([slow[:300], 0.01, *(slow[i : i + 1] for i in range(300, 420)), slow[420:]])
    assert (reply.content, reply.usage) == ("中文", Usage(12, 8))


@pytest.mark.asyncio
async def test_tool_calls_are_put_together() -> None:
    def part(index: int, **fields: Any) -> dict[str, Any]:
        return {"index": index, "type": "function", **fields}

    chunks = [
        delta(content="Let me look."),
        delta(tool_calls=[part(0, id="call_a", function={"name": "weather", "arguments": ""})]),
        delta(tool_calls=[part(0, function={"arguments": '{"city": "Bei'})]),
        delta(tool_calls=[part(1, id="call_b", function={"name": "time", "arguments": "{"})]),
        delta(tool_calls=[part(0, function={"arguments": 'jing"}'}), part(1, function={"arguments": "}"})]),
        delta(tool_calls=[part(2, function={"name": "nothing"})]),
        delta(finish="tool_calls"),
        COUNTED,
        "[DONE]",
    ]
    reply = await told([head() + sse(*chunks)])
    first, second, third = reply.tool_calls
    assert first == ToolCall("call_a", "weather", '{"city": "Beijing"}')
    assert second == ToolCall("call_b", "time", "{}")
    assert (third.name, third.arguments, third.id[:5]) == ("nothing", "{}", "call_")
    assert (reply.content, reply.finish_reason) == ("Let me look.", "tool_calls")


@pytest.mark.asyncio
async def test_logprobs_and_what_their_tokens_spell() -> None:
    def scored(*tokens: str) -> dict[str, Any]:
        tops = [{"token": "23", "logprob": -0.1}, {"token": "24", "logprob": -3.0}]
        return {"content": [{"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": tops} for token in tokens]}

    chunks = [
        delta(content="It is", logprobs=scored("It", " is")),
        delta(content=" 23", logprobs=scored(" 23")),
        delta(finish="stop"),
        COUNTED,
        "[DONE]",
    ]
    async with playing([head() + sse(*chunks)]) as played, upstream(played.url) as made:
        prepared = await made.prepare(ask(logprobs=True, top_logprobs=2))
        events = [event async for event in prepared.stream()]
    assert all(len(event.logprobs) == len(event.token_ids) for event in events)
    scores = Reply.of(events).logprobs
    assert [prepared.token_bytes(one.token_id) for one in scores] == [b"It", b" is", b" 23"]
    assert [(prepared.token_bytes(token), value) for token, value in scores[0].top] == [(b"23", -0.1), (b"24", -3.0)]


@pytest.mark.asyncio
async def test_several_samples() -> None:
    chunks = [
        delta(0, content="a"),
        delta(1, content="b"),
        delta(1, finish="length"),
        delta(0, content="c"),
        delta(0, finish="stop"),
        counted(prompt_tokens=5, completion_tokens=9),
        "[DONE]",
    ]
    async with playing([head() + sse(*chunks)]) as played, upstream(played.url) as made:
        events = await events_of(made, ask(n=2))
    assert played.bodies[0]["n"] == 2
    one, two = (Reply.of(event for event in events if event.index == index) for index in (0, 1))
    assert (one.content, one.finish_reason, two.content, two.finish_reason) == ("ac", "stop", "b", "length")
    assert (one.usage.completion_tokens + two.usage.completion_tokens, two.usage.prompt_tokens) == (9, 5)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("told_reason", "ours"),
    [("stop", "stop"), ("length", "length"), ("abort", "cancelled"), ("content_filter", "stop")],
)
async def test_finish_reasons(told_reason: str, ours: str) -> None:
    reply = await told([head() + sse(delta(content="x"), delta(finish=told_reason))])  # no usage, no [DONE]
    assert reply.finish_reason == ours
    assert reply.usage.completion_tokens == 1
    assert reply.usage.prompt_tokens > 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "script",
    [
        [head() + sse(delta(content="It"))],
        [head() + sse(delta(content="It"), "[DONE]")],
        [head(more="Transfer-Encoding: chunked\r\n") + b"5\r\ndata:"],
        [head() + sse(delta(content="It"), {"error": {"message": "CUDA", "code": 500}})],
        [head() + sse(delta(content="It"), "{not json")],
        [head() + sse(delta(content="It"), "[1, 2]")],
        [head() + sse({"choices": [{"delta": {"content": 5}}]})],
        [head() + sse(delta(7, content="It"))],
        [head() + sse(delta(finish="insufficient_system_resource"))],
        [head() + b"\x00\xff" * 500],
        [head() + b"<html>hello</html>"],
        [head() + b"data: " + b"x" * (2 * 1024 * 1024)],
        [head(500, "text/html") + b"oh"],
        [head(302, more="Location: http://127.0.0.1:1/\r\n")],
    ],
)
async def test_whatever_breaks_is_a_503_with_a_reason(script: Script) -> None:
    error = await failure(script)
    assert (error.status, error.code) == (503, "upstream_failed")
    assert str(error).startswith("the server behind this model ")
    assert "CUDA" not in str(error)


@pytest.mark.asyncio
async def test_null_is_as_good_as_nothing() -> None:
    empty = {"index": 0, "delta": None, "finish_reason": None, "logprobs": None}
    nothing = {"content": "x", "reasoning_content": None, "tool_calls": None}
    called = {"tool_calls": [{"index": None, "id": None, "function": None}]}
    usage = {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None}
    chunks = [
        {"choices": None, "usage": None},
        {"choices": [empty], "usage": None},
        delta(**nothing),
        delta(**called),
        delta(finish="stop"),
        counted(**usage),
    ]
    reply = await told([head() + sse(*chunks)])
    assert (reply.content, reply.usage.completion_tokens) == ("x", 1)
    assert reply.usage.prompt_tokens > 0

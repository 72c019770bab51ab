"""The chunks of chat completions, byte by byte, as OpenAI and DeepSeek document them."""

import json
import re

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from millet.reasoning.reply import Event, Reply, TokenLogprob, ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.openai_wire import ChatWire, finish_reason
from millet.serve.wire import merged
from tests.serve.fakes import finish, spoken

USAGE = (
    '{"prompt_tokens":10,"completion_tokens":8,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4},'
    '"completion_tokens_details":{"reasoning_tokens":5},"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6}'
)


def stream(wire: ChatWire, events: list[Event]) -> str:
    text = wire.begin() + "".join(map(wire.event, events)) + wire.end()
    text = re.sub(r'"id":"chatcmpl-[0-9a-f]{24}"', '"id":"ID"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    return re.sub(r"millet-[\d.]+", "millet-V", text)


def events() -> list[Event]:
    return [step for step in spoken("15 + 8 = 23", "It is 23.") if isinstance(step, Event)]


HEAD = '"id":"ID","object":"chat.completion.chunk","created":0,"model":"m","system_fingerprint":"millet-V"'


def chunk(delta: str, finish: str = "null", rest: str = "") -> str:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
    return f'data: {{{HEAD},"choices":[{choice}]{rest}}}\n\n'


def test_a_stream_has_these_bytes() -> None:
    words = ["15 ", "+ ", "8 ", "= ", "23"]
    expected = chunk('{"role":"assistant","content":"","reasoning_content":null}')
    for word in words:
        expected += chunk(f'{{"content":null,"reasoning_content":"{word}","reasoning":"{word}"}}')
    for word in ["It ", "is ", "23."]:
        expected += chunk(f'{{"content":"{word}"}}')
    expected += chunk("{}", '"stop"', f',"usage":{USAGE}') + "data: [DONE]\n\n"
    assert stream(ChatWire("m"), events()) == expected


def test_include_usage_puts_usage_into_a_chunk_of_its_own() -> None:
    text = stream(ChatWire("m", include_usage=True), events())
    *chunks, usage, done = text.removesuffix("\n\n").split("\n\n")
    assert all(line.endswith(',"usage":null}') for line in chunks)
    assert usage == f'data: {{{HEAD},"choices":[],"usage":{USAGE}}}'
    assert done == "data: [DONE]"


def test_the_official_types_read_every_chunk() -> None:
    call = Event("tool_call", "", (5, 6), tool_call=ToolCall("call_1", "add", '{"a": 1}'))
    again = Event("tool_call", "", (5, 6), tool_call=ToolCall("call_2", "add", '{"a": 2}'))
    text = stream(ChatWire("m"), [*events()[:-1], call, again, finish("tool_calls")])
    chunks = [
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "))
        for line in text.split("\n\n")
        if line.startswith("data: {")
    ]
    calls = [call for part in chunks for choice in part.choices for call in choice.delta.tool_calls or []]
    assert [(call.index, call.id, call.function and call.function.arguments) for call in calls] == [
        (0, "call_1", '{"a": 1}'),
        (1, "call_2", '{"a": 2}'),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 4


def test_samples_are_told_apart_and_counted_once() -> None:
    wire = ChatWire("m", samples=2)
    text = wire.begin()
    text += wire.event(Event("content", "a", (1,), index=1))
    text += wire.event(finish(index=1, tokens=3, reasoning=0))
    text += wire.event(Event("content", "b", (1,), index=0))
    text += wire.event(finish(index=0, tokens=4, reasoning=0)) + wire.end()
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    assert [part["choices"][0]["index"] for part in chunks] == [0, 1, 1, 1, 0, 0]
    assert [part["usage"]["completion_tokens"] for part in chunks if part.get("usage")] == [7]
    assert chunks[-1]["usage"]["prompt_tokens"] == 10


def test_a_reply_that_breaks_off_ends_with_a_reason_and_done() -> None:
    wire = ChatWire("m", samples=2)
    text = wire.begin() + wire.event(finish(index=0)) + wire.fail(ApiError(500, "broken"))
    *_, last, done = text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: "))["choices"][0] == {
        "index": 1,
        "delta": {},
        "logprobs": None,
        "finish_reason": "insufficient_system_resource",
    }
    assert done == "data: [DONE]"


def test_log_probabilities_come_with_their_tokens() -> None:
    wire = ChatWire("m", token_bytes=lambda token: {7: b"\xe4\xbd\xa0", 8: b"\xe4"}[token])
    event = Event("content", "你", (7,), logprobs=(TokenLogprob(7, -0.5, ((7, -0.5), (8, float("-inf")))),))
    part = json.loads(wire.event(event).removeprefix("data: "))
    assert part["choices"][0]["logprobs"]["content"] == [
        {
            "token": "你",
            "logprob": -0.5,
            "bytes": [228, 189, 160],
            "top_logprobs": [
                {"token": "你", "logprob": -0.5, "bytes": [228, 189, 160]},
                {"token": "�", "logprob": -9999.0, "bytes": [228]},
            ],
        }
    ]


def test_whole_replies_are_read_by_the_official_types() -> None:
    usage = Usage(10, 8, 5, 4)
    call = ToolCall("call_1", "add", "{}")
    replies = [
        Reply("15 + 8 = 23", "It is 23.", "stop", usage),
        Reply("", "", "tool_calls", Usage(10, 2, 0, 4), tool_calls=(call,)),
    ]
    whole = ChatWire("m", samples=2).whole(replies)
    read = ChatCompletion.model_validate(whole)
    assert read.choices[0].message.content == "It is 23."
    assert whole["choices"][0]["message"]["reasoning_content"] == whole["choices"][0]["message"]["reasoning"]
    assert read.choices[1].message.content is None
    assert read.choices[1].message.tool_calls is not None
    assert read.usage is not None
    assert (read.usage.completion_tokens, read.usage.total_tokens) == (10, 20)


@pytest.mark.parametrize(
    ("reason", "ended", "told"),
    [
        ("loop", "loop", "stop"),
        ("loop", None, "length"),
        ("cancelled", None, "insufficient_system_resource"),
        ("tool_calls", None, "tool_calls"),
        ("length", "budget", "length"),
    ],
)
def test_finish_reasons_are_the_clients_words(reason: str, ended: str | None, told: str) -> None:
    assert finish_reason(Reply("", "", reason, Usage(), thought_ended=ended)) == told  # type: ignore[arg-type]


def test_text_that_looks_like_line_breaks_stays_on_one_line() -> None:
    line = ChatWire("m").event(Event("content", "a\u2028b\u0085c\r\nd", (1,)))
    assert line.splitlines()[0].startswith("data: ")
    assert len(line.splitlines()) == 2
    assert json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"] == "a\u2028b\u0085c\r\nd"


def test_texts_that_came_together_go_together() -> None:
    first, second = TokenLogprob(1, -1.0), TokenLogprob(2, -2.0)
    events = [
        Event("content", "a", (1,), logprobs=(first,)),
        Event("content", "b", (2,), logprobs=(second,)),
        Event("content", "c", (3,), index=1),
        Event("reasoning", "d", (4,), index=1),
        Event("reasoning", "e", (5, 6), index=1),
        finish(index=1),
        finish(index=0),
    ]
    assert merged(events) == [
        Event("content", "ab", (1, 2), logprobs=(first, second)),
        Event("content", "c", (3,), index=1),
        Event("reasoning", "de", (4, 5, 6), index=1),
        finish(index=1),
        finish(index=0),
    ]

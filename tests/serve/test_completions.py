"""Plain completions: the request, and the answer byte by byte, as OpenAI and DeepSeek document them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai.types import Completion
from pydantic import ValidationError

from millet.reasoning.reply import Event, Reply, TokenLogprob, Usage
from millet.serve.completions import CompletionBody, CompletionWire
from millet.serve.errors import ApiError
from tests.serve.fakes import finish

HEAD = '"id":"ID","object":"text_completion","created":0,"model":"m","system_fingerprint":"millet-V"'
USAGE = (
    '{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":4},'
    '"completion_tokens_details":{"reasoning_tokens":0},"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6}'
)
SPELLED = {1: b"It", 2: b" is", 3: b" 23", 4: b"\xe4"}


def said(*texts: str) -> list[Event]:
    return [*(Event("content", text, (1,)) for text in texts), finish(tokens=len(texts), reasoning=0)]


def stream(wire: CompletionWire, events: list[Event]) -> str:
    text = wire.begin() + "".join(map(wire.event, events)) + wire.end()
    text = re.sub(r'"id":"cmpl-[0-9a-f]{24}"', '"id":"ID"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    return re.sub(r"millet-[\d.]+", "millet-V", text)


def chunk(text: str, *, finish: str = "null", rest: str = "", index: int = 0) -> str:
    choice = f'{{"text":"{text}","index":{index},"logprobs":null,"finish_reason":{finish}}}'
    return f'data: {{{HEAD},"choices":[{choice}]{rest}}}\n\n'


def parsed(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]


def body(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "a", **fields})


def test_a_stream_has_these_bytes() -> None:
    expected = chunk("It") + chunk(" is") + chunk(" 23")
    expected += chunk("", finish='"stop"', rest=f',"usage":{USAGE}') + "data: [DONE]\n\n"
    assert stream(CompletionWire("m"), said("It", " is", " 23")) == expected


def test_include_usage_puts_usage_into_a_chunk_of_its_own() -> None:
    nothing = ',"usage":null'
    expected = chunk("It", rest=nothing) + chunk(" is", rest=nothing) + chunk(" 23", rest=nothing)
    expected += chunk("", finish='"stop"', rest=nothing)
    expected += f'data: {{{HEAD},"choices":[],"usage":{USAGE}}}\n\ndata: [DONE]\n\n'
    assert stream(CompletionWire("m", include_usage=True), said("It", " is", " 23")) == expected


def test_an_echo_stands_before_every_sample() -> None:
    wire = CompletionWire("m", samples=2, echo="Once ")
    events = [Event("content", "b", (1,), 1), finish(index=1), Event("content", "a", (1,), 0), finish(index=0)]
    texts = ["", ""]
    for part in parsed(stream(wire, events)):
        texts[part["choices"][0]["index"]] += part["choices"][0]["text"]
    assert texts == ["Once a", "Once b"]


def test_samples_are_counted_once() -> None:
    wire = CompletionWire("m", samples=2)
    events = [Event("content", "b", (1,), 1), finish(index=1, tokens=1), finish("length", index=0, tokens=3)]
    parts = parsed(stream(wire, events))
    assert [part["usage"]["completion_tokens"] for part in parts if part.get("usage")] == [4]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, "stop", "length"]


def test_a_reply_that_breaks_off_ends_with_a_reason_and_done() -> None:
    wire = CompletionWire("m")
    text = wire.begin() + wire.event(Event("content", "It", (1,))) + wire.fail(ApiError(500, "broken"))
    assert parsed(text)[-1]["choices"][0]["finish_reason"] == "insufficient_system_resource"
    assert text.endswith("data: [DONE]\n\n")


def test_log_probabilities_are_four_lists_in_step() -> None:
    scored = (TokenLogprob(1, -0.5, ((1, -0.5), (4, float("-inf")))), TokenLogprob(2, -0.25, ((2, -0.25),)))
    wire = CompletionWire("m", echo="Well. ", token_bytes=SPELLED.__getitem__)
    parts = parsed(
        stream(
            wire,
            [
                Event("content", "It is", (1, 2), logprobs=scored),
                Event("content", " 23", (3,), logprobs=(TokenLogprob(3, -1.0),)),
                finish(),
            ],
        )
    )
    assert parts[1]["choices"][0]["logprobs"] == {
        "tokens": ["It", " is"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"It": -0.5, "\ufffd": -9999.0}, {" is": -0.25}],
        "text_offset": [6, 8],
    }
    assert parts[2]["choices"][0]["logprobs"]["text_offset"] == [11]


def test_a_whole_reply_is_read_by_the_official_type() -> None:
    scored = (TokenLogprob(1, -0.5, ((1, -0.5),)), TokenLogprob(2, -0.25))
    reply = Reply("", "It is", "length", Usage(10, 2, 0, 4), logprobs=scored)
    whole = CompletionWire("m", echo="So: ", token_bytes=SPELLED.__getitem__).whole([reply])
    read = Completion.model_validate(whole, strict=True)
    assert (read.object, read.choices[0].text, read.choices[0].finish_reason) == (
        "text_completion",
        "So: It is",
        "length",
    )
    assert read.choices[0].logprobs is not None
    assert read.choices[0].logprobs.text_offset == [4, 6]
    assert read.usage is not None
    assert read.usage.total_tokens == 12


def test_text_that_looks_like_line_breaks_stays_on_one_line() -> None:
    line = CompletionWire("m").event(Event("content", "a\u2028b\u0085c\r\nd", (1,)))
    assert len(line.splitlines()) == 2
    assert parsed(line)[0]["choices"][0]["text"] == "a\u2028b\u0085c\r\nd"


def test_a_request() -> None:
    request = body(prompt=["a"], suffix="b", max_tokens=5, temperature=0.5, stop="x", logprobs=3, seed=1).to_chat()
    assert (request.model, request.prompt, request.suffix, request.messages) == ("m", "a", "b", ())
    assert request.options == {
        "temperature": 0.5,
        "seed": 1,
        "max_tokens": 5,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert body(suffix="").to_chat().suffix is None
    assert body(logprobs=0).to_chat().options == {"logprobs": True, "top_logprobs": 0}


@pytest.mark.parametrize(("fields", "param"), [({"prompt": ""}, "prompt"), ({"echo": True, "suffix": "b"}, "echo")])
def test_what_cannot_be_answered(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        body(**fields).to_chat()
    assert (caught.value.status, caught.value.param) == (422, param)


@pytest.mark.parametrize(
    "fields", [{"prompt": [1, 2]}, {"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": None}, {"best_of": 2}, {"n": 0}]
)
def test_what_is_not_a_request(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        body(**fields)

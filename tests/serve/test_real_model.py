"""The default model behind the server, asked by the official clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from millet.engine.engine import Engine
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded
from tests.serve.fakes import running

ASK: Any = [{"role": "user", "content": "What is 15 + 8?"}]
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "integer", "maximum": 99}},
            "required": ["a", "b"],
        },
    },
}
SWITCHES: Any = [{}, {"reasoning_effort": "minimal"}, {"extra_body": {"thinking": {"type": "enabled"}}}]
NAMED: Any = {"type": "function", "function": {"name": "add"}}


class Capital(BaseModel):
    large: bool
    country: str


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Engine:
    return Engine(load(smollm2_path))


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with running({"smollm2": Embedded.of(Assistant(engine), "smollm2")}, ServeConfig(port=0)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def say(client: openai.OpenAI, **options: Any) -> Any:
    given = {"model": "smollm2-chat", "messages": ASK, "max_tokens": 12, "temperature": 0, **options}
    return client.chat.completions.create(**given)


def test_an_answer_whole_and_streamed_is_the_same(client: openai.OpenAI) -> None:
    whole = say(client)
    chunks = list(say(client, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content != ""
    assert "reasoning_content" not in whole.choices[0].message.model_extra
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens <= 12
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_thought_is_told_apart_and_leaves_room_for_an_answer(client: openai.OpenAI, switches: Any) -> None:
    reply = say(client, model="smollm2", max_tokens=48, **switches)
    message = reply.choices[0].message
    assert message.reasoning_content
    assert message.content
    assert "think>" not in message.content + message.reasoning_content
    assert 0 < reply.usage.completion_tokens_details.reasoning_tokens < reply.usage.completion_tokens <= 48


def test_a_seed_repeats_a_reply_and_samples_differ(client: openai.OpenAI) -> None:
    options: Any = {"temperature": 1.0, "seed": 7, "n": 3, "max_tokens": 10}
    first, second = (sorted((c.index, c.message.content) for c in say(client, **options).choices) for _ in range(2))
    assert first == second
    assert len({content for _, content in first}) > 1


def test_stop_strings_and_lengths_end_a_reply(client: openai.OpenAI) -> None:
    free = say(client).choices[0].message.content
    stopped = say(client, stop=[free[3:6]]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (free[: free.index(free[3:6])], "stop")
    assert say(client, max_tokens=2).choices[0].finish_reason == "length"


def test_log_probabilities_spell_the_reply(client: openai.OpenAI) -> None:
    choice = say(client, logprobs=True, top_logprobs=2).choices[0]
    spelled = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
    assert choice.message.content in spelled.decode()
    for entry in choice.logprobs.content:
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert entry.token == entry.top_logprobs[0].token  # the reply is the likeliest


def test_a_reply_goes_on_from_its_beginning(client: openai.OpenAI) -> None:
    begun: Any = {"role": "assistant", "content": "The answer, of course, is", "prefix": True}
    content = say(client, messages=[*ASK, begun]).choices[0].message.content
    assert content
    assert "of course" not in content


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    options: Any = {"tools": [ADD], "tool_choice": choice, "max_tokens": 64}
    if stream:
        chunks = list(say(client, stream=True, **options))
        (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        reason = chunks[-1].choices[0].finish_reason
    else:
        (answer,) = say(client, **options).choices
        (call,) = answer.message.tool_calls
        reason = answer.finish_reason
    assert reason == "tool_calls"
    assert call.function.name == "add"
    assert {type(value) for value in json.loads(call.function.arguments).values()} == {int}
    assert set(json.loads(call.function.arguments)) == {"a", "b"}


def test_a_tools_answer_is_read(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 15, "b": 8}'}}
    history = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "23"},
    ]
    assert say(client, messages=history, tools=[ADD], tool_choice="none").choices[0].message.content


@pytest.mark.parametrize("model", ["smollm2-chat", "smollm2"])
def test_content_has_the_form_that_was_asked_for(client: openai.OpenAI, model: str) -> None:
    ask: Any = [{"role": "user", "content": "Tell me about the capital of France, as JSON."}]
    reply = client.chat.completions.parse(
        model=model, messages=ask, response_format=Capital, max_tokens=120, temperature=0
    ).choices[0]
    assert reply.finish_reason == "stop"
    assert isinstance(reply.message.parsed, Capital)


def test_plain_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="smollm2", prompt="The capital of France is", max_tokens=6, temperature=0, logprobs=1, echo=True
    ).choices[0]
    assert reply.text.startswith("The capital of France is")
    assert "Paris" in reply.text
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model="smollm2", prompt="def f(", suffix="return x")
    assert "suffix" in str(caught.value)


def test_what_cannot_be_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        say(client, messages=[{"role": "user", "content": "word " * 20_000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError):
        say(client, logit_bias={"999999": 1})
    impossible: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "fruit"}}}
    with pytest.raises(openai.UnprocessableEntityError):
        say(client, response_format=impossible)


def test_responses_and_messages_say_the_same(client: openai.OpenAI, url: str) -> None:
    content = say(client).choices[0].message.content
    response = client.responses.create(
        model="smollm2-chat", input="What is 15 + 8?", max_output_tokens=12, temperature=0
    )
    assert response.output_text == content
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
        options: Any = {"model": "smollm2-chat", "messages": ASK, "max_tokens": 12, "extra_body": {"temperature": 0}}
        (block,) = claude.messages.create(**options).content
        assert block.type == "text"
        assert block.text == content
        counted = claude.messages.count_tokens(model="smollm2-chat", messages=ASK).input_tokens
        assert counted == say(client).usage.prompt_tokens
        thinking: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 32}
        with claude.messages.stream(**{**options, **thinking}) as stream:
            kinds = [block.type for block in stream.get_final_message().content]
        assert kinds == ["thinking", "text"]


def test_closing_a_stream_frees_its_place_in_the_engine(client: openai.OpenAI, engine: Engine) -> None:
    endless = {str(token): -100 for token in engine.model.eos_token_ids}
    with say(client, max_tokens=1500, logit_bias=endless, stream=True):
        wait_until(lambda: engine.stats()["running"] == 1)
    wait_until(lambda: engine.stats()["running"] == 0)


def test_many_at_once_each_get_their_own(url: str) -> None:
    async def ask() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

            async def one(number: int) -> str:
                message: Any = {"role": "user", "content": f"Say the number {number}."}
                reply = await client.chat.completions.create(
                    model="smollm2-chat", messages=[message], max_tokens=8, temperature=0
                )
                return reply.choices[0].message.content or ""

            return await asyncio.gather(*map(one, range(8))), [await one(number) for number in range(8)]

    together, alone = asyncio.run(ask())
    assert together == alone

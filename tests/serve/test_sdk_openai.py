"""The official OpenAI client against the server over loopback, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from millet.errors import BadRequest, PromptTooLong, UnknownModel
from millet.reasoning.reply import Event, TokenLogprob, ToolCall
from millet.serve.accounts import Accounts
from millet.serve.caller import LOCAL, Limits
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError
from millet.serve.store import Store
from tests.serve.fakes import FakeBackend, finish, running, spoken

ASK: Any = [{"role": "user", "content": "What is 15 + 8?"}]
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
CALL = ToolCall("call_1", "add", '{"a": 15, "b": 8}')
BACKEND = FakeBackend()


class Sum(BaseModel):
    total: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"m": BACKEND}, ServeConfig(port=0, keep_alive=0.05)) as url:
        yield url


@pytest.fixture
def backend() -> FakeBackend:
    """The server's, as new."""
    BACKEND.script, BACKEND.error, BACKEND.cancelled = spoken(), None, 0
    BACKEND.requests.clear()
    return BACKEND


@pytest.fixture
def client(url: str, backend: FakeBackend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def asynchronously(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def extra(model: Any, name: str) -> Any:
    """A field that OpenAI's types do not have."""
    return (model.model_extra or {}).get(name)


# Chat completions


def test_a_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ASK)
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "It is 23.", "stop")
    assert extra(choice.message, "reasoning_content") == extra(choice.message, "reasoning") == "15 + 8 = 23"
    assert choice.message.tool_calls is None
    assert choice.logprobs is None
    assert (reply.object, reply.model) == ("chat.completion", "m")
    usage = reply.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 8, 18)
    assert (usage.prompt_tokens_details.cached_tokens, usage.completion_tokens_details.reasoning_tokens) == (4, 5)
    assert (extra(usage, "prompt_cache_hit_tokens"), extra(usage, "prompt_cache_miss_tokens")) == (4, 6)


def test_a_chat_streamed(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="m", messages=ASK, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(extra(delta, "reasoning_content") or "" for delta in deltas) == "15 + 8 = 23"
    assert "".join(delta.content or "" for delta in deltas) == "It is 23."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 18


def test_usage_in_a_chunk_of_its_own(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 8


def test_the_clients_own_accumulation_of_a_stream(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [*spoken()[:-1], Event("tool_call", "", (3,), tool_call=CALL), finish("tool_calls")]
    with client.chat.completions.stream(model="m", messages=ASK, tools=[ADD]) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert {"chunk", "content.delta", "content.done", "tool_calls.function.arguments.done"} <= set(kinds)
    assert message.content == "It is 23."
    assert [call.function.arguments for call in message.tool_calls or []] == [CALL.arguments]


def test_asynchronous_clients(url: str, backend: FakeBackend) -> None:
    async def ask() -> None:
        async with asynchronously(url) as client:
            whole, chunks = await asyncio.gather(
                client.chat.completions.create(model="m", messages=ASK),
                client.chat.completions.create(model="m", messages=ASK, stream=True),
            )
            assert whole.choices[0].message.content == "It is 23."
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "It is 23."

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("switches", "think"),
    [
        ({}, "on"),
        ({"reasoning_effort": "none"}, "off"),
        ({"reasoning_effort": "minimal"}, 128),
        ({"reasoning_effort": "high"}, 8192),
        ({"extra_body": {"thinking": {"type": "disabled"}}}, "off"),
        ({"extra_body": {"thinking": {"type": "enabled"}}, "reasoning_effort": "low"}, 512),
    ],
)
def test_how_long_to_think(client: openai.OpenAI, backend: FakeBackend, switches: Any, think: Any) -> None:
    client.chat.completions.create(model="m", messages=ASK, **switches)
    assert backend.requests[0].options["think"] == think


def test_tools_are_called_and_answered(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [Event("tool_call", "", (3,), tool_call=CALL), finish("tool_calls", reasoning=0)]
    choice: Any = {"type": "function", "function": {"name": "add"}}
    reply = client.chat.completions.create(model="m", messages=ASK, tools=[ADD], tool_choice=choice).choices[0]
    assert (reply.finish_reason, reply.message.content) == ("tool_calls", None)
    (call,) = reply.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call_1", "add", {"a": 15, "b": 8})
    assert backend.requests[0].options["tools"] == [ADD]
    assert backend.requests[0].options["tool_choice"] == choice

    backend.script = spoken()
    answer: Any = {"role": "tool", "tool_call_id": call.id, "content": "23"}
    history = [*ASK, reply.message, answer]  # the message as the client's own object
    again = client.chat.completions.create(model="m", messages=history, tools=[ADD])
    assert again.choices[0].message.content == "It is 23."
    _, called, answered = backend.requests[1].messages
    assert called["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": CALL.arguments}}
    ]
    assert answered == answer


def test_a_pydantic_model_is_parsed(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = spoken(content='{"total": 23}')
    reply = client.chat.completions.parse(model="m", messages=ASK, response_format=Sum)
    assert reply.choices[0].message.parsed == Sum(total=23)
    schema = backend.requests[0].options["schema"]
    assert schema is not None
    assert schema["properties"] == {"total": {"title": "Total", "type": "integer"}}


def test_an_object_is_asked_for(client: openai.OpenAI, backend: FakeBackend) -> None:
    client.chat.completions.create(model="m", messages=ASK, response_format={"type": "json_object"})
    assert backend.requests[0].options["schema"] == {"type": "object"}


def test_log_probabilities(client: openai.OpenAI, backend: FakeBackend) -> None:
    scored = TokenLogprob(2, -0.25, ((2, -0.25), (5, -2.0)))
    backend.script = [Event("content", "<2>", (2,), logprobs=(scored,)), finish(tokens=1, reasoning=0)]
    reply = client.chat.completions.create(model="m", messages=ASK, logprobs=True, top_logprobs=2).choices[0]
    stream = client.chat.completions.create(model="m", messages=ASK, logprobs=True, top_logprobs=2, stream=True)
    streamed = [chunk.choices[0].logprobs for chunk in stream if chunk.choices[0].logprobs]
    for logprobs in (reply.logprobs, streamed[0]):
        assert logprobs is not None
        (entry,) = logprobs.content or []
        assert (entry.token, entry.logprob, entry.bytes) == ("<2>", -0.25, list(b"<2>"))
        assert [(top.token, top.logprob) for top in entry.top_logprobs] == [("<2>", -0.25), ("<5>", -2.0)]
    assert backend.requests[0].options["top_logprobs"] == 2


def test_several_samples(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [
        Event("content", "b", (1,), 1),
        Event("content", "a", (1,), 0),
        finish(index=1, tokens=1, reasoning=0),
        finish("length", index=0, tokens=1, reasoning=0),
    ]
    reply = client.chat.completions.create(model="m", messages=ASK, n=2)
    told = [(choice.index, choice.message.content, choice.finish_reason) for choice in reply.choices]
    assert told == [(0, "a", "length"), (1, "b", "stop")]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 2)


def test_what_may_be_asked_of_sampling_arrives(client: openai.OpenAI, backend: FakeBackend) -> None:
    client.chat.completions.create(
        model="m",
        messages=ASK,
        temperature=0.6,
        top_p=0.95,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=7,
        stop=["\n", "END"],
        logit_bias={"42": -100},
        max_completion_tokens=9,
        user="someone",
        parallel_tool_calls=False,
        store=False,
        metadata={"a": "b"},
        extra_body={"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1},
    )
    assert backend.requests[0].options == {
        "temperature": 0.6,
        "top_p": 0.95,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 7,
        "stop": ["\n", "END"],
        "logit_bias": {42: -100},
        "max_tokens": 9,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "think": "on",
    }


def test_a_reply_goes_on_from_its_beginning(url: str, backend: FakeBackend) -> None:
    beginning: Any = {"role": "assistant", "content": "It", "prefix": True, "reasoning_content": "so"}
    with openai.OpenAI(base_url=f"{url}/beta", api_key="none") as client:  # where DeepSeek has it
        client.chat.completions.create(model="deepseek-chat", messages=[*ASK, beginning])
    assert backend.requests[0].messages[-1] == beginning


# Plain completions


def test_plain_completions(client: openai.OpenAI, backend: FakeBackend) -> None:
    scored = TokenLogprob(2, -0.25, ((2, -0.25),))
    backend.script = [Event("content", "<2>", (2,), logprobs=(scored,)), finish(tokens=1, reasoning=0)]
    reply = client.completions.create(model="m", prompt="a", suffix="b", max_tokens=5, logprobs=1)
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason, reply.object) == ("<2>", "stop", "text_completion")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<2>"]
    assert choice.logprobs.top_logprobs == [{"<2>": -0.25}]
    assert (backend.requests[0].prompt, backend.requests[0].suffix) == ("a", "b")
    assert "think" not in backend.requests[0].options
    chunks = list(client.completions.create(model="m", prompt="a", echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a<2>"
    assert chunks[-1].usage is not None


# Responses


def test_a_response(client: openai.OpenAI, backend: FakeBackend) -> None:
    reply = client.responses.create(
        model="m", input="What is 15 + 8?", instructions="Add.", reasoning={"effort": "low"}
    )
    assert (reply.output_text, reply.status) == ("It is 23.", "completed")
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.usage is not None
    assert reply.usage.output_tokens_details.reasoning_tokens == 5
    assert [message["role"] for message in backend.requests[0].messages] == ["system", "user"]
    assert backend.requests[0].options["think"] == 512


def test_a_response_streamed(client: openai.OpenAI, backend: FakeBackend) -> None:
    with client.responses.stream(model="m", input="What is 15 + 8?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert (thought, final.output_text) == ("15 + 8 = 23", "It is 23.")
    assert events[-1].type == "response.completed"


def test_a_response_is_parsed_and_calls_tools(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = spoken(content='{"total": 23}')
    parsed = client.responses.parse(model="m", input="What is 15 + 8?", text_format=Sum)
    assert parsed.output_parsed == Sum(total=23)
    backend.script = [Event("tool_call", "", (3,), tool_call=CALL), finish("tool_calls", reasoning=0)]
    tool: Any = {"type": "function", "strict": False, **ADD["function"]}
    (call,) = client.responses.create(model="m", input="15 + 8?", tools=[tool], tool_choice="required").output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("add", CALL.arguments, "call_1")
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "23"}
    client.responses.create(model="m", input=[{"role": "user", "content": "15 + 8?"}, call.model_dump(), answer])  # type: ignore[list-item]
    assert [message["role"] for message in backend.requests[2].messages] == ["user", "assistant", "tool"]


# Models, refusals, and clients that go away


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [
        *("m", "m-chat", "m-reasoner"),
        *("deepseek-chat", "deepseek-reasoner"),
    ]
    assert client.models.retrieve("m").owned_by == "millet"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (PromptTooLong("too long"), openai.BadRequestError, "context_length_exceeded"),
        (UnknownModel("none"), openai.NotFoundError, "model_not_found"),
        (BadRequest("no"), openai.UnprocessableEntityError, None),
        (ApiError(401, "who?"), openai.AuthenticationError, None),
        (ApiError(402, "the balance is used up"), openai.APIStatusError, None),
        (ApiError(403, "no"), openai.PermissionDeniedError, None),
        (ApiError(413, "too large"), openai.APIStatusError, None),
        (ApiError(429, "slower", retry_after=7), openai.RateLimitError, None),
        (ApiError(503, "later", retry_after=7), openai.InternalServerError, None),
        (RuntimeError("secret"), openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_clients_exceptions(
    client: openai.OpenAI,
    backend: FakeBackend,
    error: Exception,
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    backend.error = error
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="m", messages=ASK, stream=stream)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    if isinstance(error, ApiError):
        assert caught.value.status_code == error.status
        assert caught.value.response.headers.get("retry-after") == ("7" if error.retry_after else None)
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.request_id


def test_a_limit_says_when_to_come_again() -> None:
    config = ServeConfig(port=0, limits=Limits(requests_per_minute=1))
    with (
        running({"m": FakeBackend()}, config) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        client.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=ASK)
    assert int(caught.value.response.headers["retry-after"]) > 50


def test_keys(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/millet.db"
    with Store.open(database) as store:
        _, secret = Accounts(store).keys.create(LOCAL.account, "laptop", Limits())
    with running({"m": FakeBackend()}, ServeConfig(port=0, users=True, database=database)) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
            assert client.chat.completions.create(model="m", messages=ASK).choices
        with openai.OpenAI(base_url=f"{url}/v1", api_key="mk-wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.chat.completions.create(model="m", messages=ASK)
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_stream_that_breaks_off_has_a_reason(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [Event("content", "It", (1,)), RuntimeError("secret")]
    chunks = list(client.chat.completions.create(model="m", messages=ASK, stream=True))
    assert chunks[-1].choices[0].finish_reason == "insufficient_system_resource"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="m", messages=ASK)
    (*_, last) = client.responses.create(model="m", input="15 + 8?", stream=True)
    assert last.type == "response.failed"


def test_signs_of_life_are_no_trouble(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [0.2, *spoken()]
    assert client.chat.completions.create(model="m", messages=ASK).choices[0].message.content == "It is 23."
    assert list(client.chat.completions.create(model="m", messages=ASK, stream=True))[-1].choices[0].finish_reason
    assert client.responses.create(model="m", input="15 + 8?").output_text == "It is 23."


def test_closing_a_stream_frees_its_slot(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = [Event("content", "a", (1,)), 60.0, finish()]
    stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
    assert next(iter(stream)).choices
    stream.close()
    wait_until(lambda: (backend.running, backend.cancelled) == (0, 1))
    with client.responses.create(model="m", input="15 + 8?", stream=True) as events:
        next(iter(events))
    wait_until(lambda: (backend.running, backend.cancelled) == (0, 2))


def test_an_asynchronous_task_that_is_cancelled_frees_its_slot(url: str, backend: FakeBackend) -> None:
    backend.script = [Event("content", "a", (1,)), 60.0, finish()]

    async def ask() -> None:
        async with asynchronously(url) as client:
            task = asyncio.create_task(client.chat.completions.create(model="m", messages=ASK))
            while not backend.running:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while backend.running:
                await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert backend.cancelled == 1

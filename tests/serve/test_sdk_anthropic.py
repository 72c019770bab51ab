"""The official Anthropic client against the server over loopback, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from millet.errors import BadRequest, PromptTooLong
from millet.reasoning.reply import Event, ToolCall
from millet.serve.accounts import Accounts
from millet.serve.caller import LOCAL, Limits
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError
from millet.serve.store import Store
from tests.serve.fakes import FakeBackend, finish, running, spoken

ASK: Any = [{"role": "user", "content": "What is 15 + 8?"}]
ADD: Any = {
    "name": "add",
    "description": "Adds two numbers",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
CALL = ToolCall("call_1", "add", '{"a": 15, "b": 8}')
BACKEND = FakeBackend()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"m": BACKEND}, ServeConfig(port=0, keep_alive=0.05, max_body=100_000)) as url:
        yield url


@pytest.fixture
def backend() -> FakeBackend:
    """The server's, as new."""
    BACKEND.script, BACKEND.error, BACKEND.cancelled = spoken(), None, 0
    BACKEND.requests.clear()
    return BACKEND


@pytest.fixture
def client(url: str, backend: FakeBackend) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=20) as client:
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_a_message(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    message = client.messages.create(
        model="m",
        max_tokens=64,
        messages=ASK,
        system="Add.",
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"temperature": 1.0},
        stop_sequences=["END"],
        metadata={"user_id": "someone"},
    )
    thought, text = message.content
    assert thought.type == "thinking"
    assert text.type == "text"
    assert (thought.thinking, text.text, message.stop_reason) == ("15 + 8 = 23", "It is 23.", "end_turn")
    assert thought.signature
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 8)
    assert backend.requests[0].options == {"max_tokens": 64, "think": 1024, "temperature": 1.0, "stop": ["END"]}
    assert [part["role"] for part in backend.requests[0].messages] == ["system", "user"]


def test_a_message_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="m", max_tokens=64, messages=ASK) as stream:
        events = list(stream)
        final = stream.get_final_message()
    thought, text = final.content
    assert thought.type == "thinking"
    assert text.type == "text"
    assert (thought.thinking, text.text, final.stop_reason) == ("15 + 8 = 23", "It is 23.", "end_turn")
    assert thought.signature
    assert final.usage.output_tokens == 8
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert {"thinking", "signature", "text", "content_block_stop", "message_delta"} <= set(kinds)


def test_an_asynchronous_client(url: str, backend: FakeBackend) -> None:
    async def ask() -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            async with client.messages.stream(model="m", max_tokens=64, messages=ASK) as stream:
                assert "".join([text async for text in stream.text_stream]) == "It is 23."
            message = await client.messages.create(model="m", max_tokens=64, messages=ASK)
            assert message.content[-1].type == "text"

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("switches", "think"),
    [
        ({}, "on"),
        ({"thinking": {"type": "disabled"}}, "off"),
        ({"thinking": {"type": "adaptive"}}, "auto"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 512),
    ],
)
def test_how_long_to_think(client: anthropic.Anthropic, backend: FakeBackend, switches: Any, think: Any) -> None:
    client.messages.create(model="m", max_tokens=64, messages=ASK, **switches)
    assert backend.requests[0].options["think"] == think


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_answered(client: anthropic.Anthropic, backend: FakeBackend, stream: bool) -> None:
    backend.script = [*spoken()[:-1], Event("tool_call", "", (3,), tool_call=CALL), finish("tool_calls")]
    options: Any = {"model": "m", "max_tokens": 64, "tools": [ADD], "tool_choice": {"type": "any"}}
    if stream:
        with client.messages.stream(messages=ASK, **options) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(messages=ASK, **options)
    call = message.content[-1]
    assert call.type == "tool_use"
    assert (call.id, call.name, call.input, message.stop_reason) == ("call_1", "add", {"a": 15, "b": 8}, "tool_use")
    assert backend.requests[0].options["tool_choice"] == "required"

    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "23"}]}
    history: Any = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    client.messages.create(model="m", max_tokens=64, messages=history, tools=[ADD])
    assert [part["role"] for part in backend.requests[1].messages] == ["user", "assistant", "tool"]
    assert "15 + 8 = 23" not in str(backend.requests[1].messages)


def test_a_schema_and_a_beginning(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    begun: Any = {"role": "assistant", "content": "{"}
    client.messages.create(model="m", max_tokens=64, messages=[*ASK, begun], output_config=form)
    assert backend.requests[0].options["schema"] == {"type": "object"}
    assert backend.requests[0].messages[-1] == {"role": "assistant", "content": "{", "prefix": True}


def test_tokens_are_counted_and_models_listed(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="m", messages=ASK).input_tokens == 10
    assert [model.id for model in client.models.list()] == [
        "m",
        "m-chat",
        "m-reasoner",
        "deepseek-chat",
        "deepseek-reasoner",
    ]
    assert client.models.retrieve("m").id == "m"


@pytest.mark.parametrize(
    ("error", "kind", "type"),
    [
        (PromptTooLong("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (BadRequest("no"), anthropic.BadRequestError, "invalid_request_error"),
        (ApiError(401, "who?"), anthropic.AuthenticationError, "authentication_error"),
        (ApiError(402, "used up"), anthropic.APIStatusError, "billing_error"),
        (ApiError(403, "no"), anthropic.PermissionDeniedError, "permission_error"),
        (ApiError(404, "no such model"), anthropic.NotFoundError, "not_found_error"),
        (ApiError(413, "too large"), anthropic.RequestTooLargeError, "request_too_large"),
        (ApiError(429, "slower", retry_after=7), anthropic.RateLimitError, "rate_limit_error"),
        (ApiError(503, "later", retry_after=7), anthropic.OverloadedError, "overloaded_error"),
        (RuntimeError("secret"), anthropic.InternalServerError, "api_error"),
    ],
)
def test_refusals_are_the_clients_exceptions(
    client: anthropic.Anthropic,
    backend: FakeBackend,
    error: Exception,
    kind: type[anthropic.APIStatusError],
    type: str,
) -> None:
    backend.error = error
    with pytest.raises(kind) as caught:
        client.messages.create(model="m", max_tokens=64, messages=ASK)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", type)
    assert caught.value.request_id
    assert body["request_id"] == caught.value.request_id
    assert "secret" not in str(caught.value)
    if isinstance(error, ApiError):
        assert caught.value.response.headers.get("retry-after") == ("7" if error.retry_after else None)


def test_refusals_before_the_application_have_the_same_shape(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    with pytest.raises(anthropic.RequestTooLargeError) as caught:
        client.messages.create(model="m", max_tokens=64, messages=[{"role": "user", "content": "x" * 200_000}])
    body: Any = caught.value.body
    assert body["error"]["type"] == "request_too_large"
    assert backend.requests == []


def test_keys(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/millet.db"
    with Store.open(database) as store:
        _, secret = Accounts(store).keys.create(LOCAL.account, "laptop", Limits())
    with running({"m": FakeBackend()}, ServeConfig(port=0, users=True, database=database)) as url:
        with anthropic.Anthropic(base_url=url, api_key=secret, max_retries=0) as client:
            assert client.messages.create(model="m", max_tokens=64, messages=ASK).content
        with (
            anthropic.Anthropic(base_url=url, api_key="mk-wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.messages.create(model="m", max_tokens=64, messages=ASK)


def test_a_stream_that_breaks_off_is_an_error(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.script = [Event("content", "It", (1,)), RuntimeError("secret")]
    with (
        client.messages.stream(model="m", max_tokens=64, messages=ASK) as stream,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        list(stream)
    assert "secret" not in str(caught.value)


def test_signs_of_life_are_no_trouble(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.script = [0.2, *spoken()]
    assert client.messages.create(model="m", max_tokens=64, messages=ASK).content[-1].type == "text"
    with client.messages.stream(model="m", max_tokens=64, messages=ASK) as stream:
        assert stream.get_final_text() == "It is 23."


def test_closing_a_stream_frees_its_slot(client: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.script = [Event("content", "a", (1,)), 60.0, finish()]
    with client.messages.stream(model="m", max_tokens=64, messages=ASK) as stream:
        assert next(iter(stream)).type == "message_start"
    wait_until(lambda: (backend.running, backend.cancelled) == (0, 1))

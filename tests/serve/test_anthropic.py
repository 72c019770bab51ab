import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from hypothesis import given, settings
from pydantic import TypeAdapter

from millet.reasoning.reply import Event, Reply, ToolCall
from millet.serve.anthropic import CountTokensBody, MessagesBody, TokenCount, error_body, error_status
from millet.serve.anthropic_wire import SIGNATURE, MessagesWire
from millet.serve.errors import ApiError
from tests.serve.wires import (
    MESSAGES,
    REPLIES,
    USAGE,
    answering,
    finish,
    parse,
    recorded,
    spoken,
    stream,
    texts,
    without_ids,
)

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ASKED = {"model": "m", "max_tokens": 64, "messages": MESSAGES}
COUNTS = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 5,
    "output_tokens": 9,
    "output_tokens_details": {"thinking_tokens": 4},
}


def client(*args: Any, **kwargs: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", http_client=answering(*args, **kwargs), max_retries=0)


def block(index: int, content_block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content_block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def test_stream_to_the_byte() -> None:
    message = {
        "id": "msg_",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    assert without_ids(stream(MessagesWire("m", prompt_tokens=12), spoken())) == recorded(
        {"type": "message_start", "message": message},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Two "},
            {"type": "thinking_delta", "thinking": "days."},
            {"type": "signature_delta", "signature": SIGNATURE},
        ),
        *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": 'Let\'s "see"\n'}),
        *block(
            2,
            {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"city": "Köln", "days": 2}'},
        ),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": COUNTS},
        {"type": "message_stop"},
    )


def test_the_sdk_streams_what_it_gets_whole() -> None:
    wire = MessagesWire("m", prompt_tokens=12)
    whole = wire.whole([Reply.of(spoken())])
    Message.model_validate(whole, strict=True)
    created = client(whole).messages.create(**ASKED)
    with client(stream(wire, spoken())).messages.stream(**ASKED) as events:
        streamed = events.get_final_message()
    assert streamed.model_dump(exclude={"content": {"__all__": {"parsed_output"}}}) == created.model_dump()
    thinking, text, tool = created.content
    assert (thinking.thinking, text.text) == ("Two days.", 'Let\'s "see"\n')
    assert (tool.id, tool.name, tool.input) == ("call_1", "get_weather", {"city": "Köln", "days": 2})
    assert created.stop_reason == "tool_use"
    assert created.usage.input_tokens + created.usage.cache_read_input_tokens == USAGE.prompt_tokens
    assert created.usage.output_tokens == USAGE.completion_tokens


@settings(max_examples=60, print_blob=True)
@given(events=REPLIES)
def test_every_legal_reply_arrives_as_it_was(events: list[Event]) -> None:
    thought, answer, calls = texts(events)
    raw = stream(MessagesWire("m"), events)
    for data in parse(raw):
        STREAM_EVENT.validate_python(data, strict=True)
    with client(raw).messages.stream(**ASKED) as received:
        message = received.get_final_message()
    whole = Message.model_validate(MessagesWire("m").whole([Reply.of(events)]), strict=True)
    for got in (message, whole):
        by_type = {
            kind: [item for item in got.content if item.type == kind] for kind in ("thinking", "text", "tool_use")
        }
        assert [item.thinking for item in by_type["thinking"]] == [thought] * bool(thought)
        assert [item.text for item in by_type["text"]] == [answer] * bool(answer)
        assert [(item.name, item.input) for item in by_type["tool_use"]] == [
            (call.name, json.loads(call.arguments)) for call in calls
        ]
    assert message.stop_reason == whole.stop_reason is not None


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [("stop", "end_turn"), ("loop", "end_turn"), ("length", "max_tokens"), ("cancelled", "max_tokens")],
)
def test_stop_reasons(reason: str, stop_reason: str) -> None:
    events = [Event("content", "Hm"), finish(reason)]
    with client(stream(MessagesWire("m"), events)).messages.stream(**ASKED) as received:
        assert received.get_final_message().stop_reason == stop_reason
    assert MessagesWire("m").whole([Reply.of(events)])["stop_reason"] == stop_reason


@pytest.mark.parametrize("said", range(6))
def test_a_reply_that_breaks_off_closes_its_blocks_and_ends_with_an_error(said: int) -> None:
    wire = MessagesWire("m")
    raw = wire.begin() + "".join(map(wire.event, spoken()[:said]))
    raw += wire.fail(ApiError(503, "the engine stopped; try again")) + wire.end()
    events = parse(raw)
    kinds = [event["type"] for event in events]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert events[-1]["error"]["type"] == "overloaded_error"
    with (
        pytest.raises(anthropic.APIStatusError, match="the engine stopped"),
        client(raw).messages.stream(**ASKED) as received,
    ):
        received.until_done()


def test_a_failure_before_the_beginning_and_after_the_end() -> None:
    wire = MessagesWire("m")
    assert [event["type"] for event in parse(wire.fail(ApiError(500, "broken")))] == ["error"]
    assert wire.fail(ApiError(500, "broken again")) == ""
    wire = MessagesWire("m")
    stream(wire, spoken())
    assert wire.fail(ApiError(500, "broken")) == ""


def test_pings_pass_by_the_sdk_also_before_the_beginning() -> None:
    wire = MessagesWire("m")
    assert wire.keep_alive() == 'event: ping\ndata: {"type":"ping"}\n\n'
    raw = wire.keep_alive() + wire.begin() + wire.keep_alive() + "".join(map(wire.event, spoken()))
    with client(raw).messages.stream(**ASKED) as received:
        assert received.get_final_text() == 'Let\'s "see"\n'


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}),
        ("[1]", {}),
        ('{"a": NaN}', {}),
        ('{"a": 1e999}', {}),
        ('{"a":' * 9000, {}),
        ('{"a": "\\ud800"}', {"a": "?"}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
    ],
)
def test_a_tools_input_is_always_an_object_that_can_be_sent(arguments: str, value: dict[str, Any]) -> None:
    events = [Event("tool_call", tool_call=ToolCall("c", "f", arguments)), finish("tool_calls")]
    whole = MessagesWire("m").whole([Reply.of(events)])
    json.dumps(whole, ensure_ascii=False, allow_nan=False).encode()
    with client(stream(MessagesWire("m"), events)).messages.stream(**ASKED) as received:
        assert received.get_final_message().content[0].input == whole["content"][0]["input"] == value


def body(**fields: Any) -> MessagesBody:
    return MessagesBody.model_validate(ASKED | fields)


def test_request() -> None:
    request = body(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        stream=True,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[{"name": "get_weather", "description": "Weather", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        metadata={"user_id": "u"},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        service_tier="auto",
    ).to_chat()
    assert request.model == "m"
    assert request.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it warm?"})
    function = {"name": "get_weather", "description": "Weather", "parameters": {"type": "object"}}
    assert request.options == {
        "max_tokens": 64,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "think": 1024,
        "schema": {"type": "object"},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }
    assert body().to_chat().options == {"max_tokens": 64}


@pytest.mark.parametrize(
    ("thinking", "think"), [({"type": "disabled"}, "off"), ({"type": "enabled"}, "on"), ({"type": "adaptive"}, "auto")]
)
def test_thinking(thinking: dict[str, Any], think: str) -> None:
    assert body(thinking=thinking).to_chat().options["think"] == think


@pytest.mark.parametrize(("choice", "option"), [("auto", "auto"), ("any", "required"), ("none", "none")])
def test_tool_choice(choice: str, option: str) -> None:
    tools = [{"name": "f", "input_schema": {}}]
    assert body(tools=tools, tool_choice={"type": choice}).to_chat().options["tool_choice"] == option


def test_a_conversation_with_tools_goes_round() -> None:
    """The SDK's own objects, sent back as its documentation shows it, are read."""
    first = client(MessagesWire("m").whole([Reply.of(spoken())])).messages.create(**ASKED)
    sent: list[dict[str, Any]] = []
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "20 °C"}]}
    client(MessagesWire("m").whole([Reply.of(spoken())]), sent=sent).messages.create(
        model="m",
        max_tokens=64,
        messages=[
            *MESSAGES,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result, {"type": "text", "text": "And"}, {"type": "text", "text": "now?"}]},
            {"role": "user", "content": "Please."},
        ],
    )
    function = {"name": "get_weather", "arguments": '{"city": "Köln", "days": 2}'}
    assert MessagesBody.model_validate(sent[0]).to_chat().messages == (
        {"role": "user", "content": "Is it warm?"},
        {
            "role": "assistant",
            "content": 'Let\'s "see"\n',
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "20 °C", "tool_call_id": "call_1"},
        {"role": "user", "content": "And\nnow?\nPlease."},
    )


def test_thoughts_that_come_back_are_ignored_and_an_assistants_last_words_are_gone_on_from() -> None:
    content = [
        {"type": "thinking", "thinking": "secret", "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "It is ("},
    ]
    messages = body(messages=[*MESSAGES, {"role": "assistant", "content": content}]).to_chat().messages
    assert messages[1] == {"role": "assistant", "content": "It is (", "prefix": True}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, 400, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]},
            400,
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
            400,
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}],
                    }
                ]
            },
            400,
            "messages.0.content.0.content.0",
        ),
        ({"system": [{"type": "image"}]}, 400, "system.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "tools.0"),
        ({"tool_choice": {"type": "any"}}, 422, "tool_choice"),
        (
            {"tool_choice": {"type": "tool", "name": "g"}, "tools": [{"name": "f", "input_schema": {}}]},
            422,
            "tool_choice.name",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_field(fields: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        body(**fields).to_chat()
    assert (caught.value.status, caught.value.param) == (status, param)


def test_count_tokens() -> None:
    counted = CountTokensBody.model_validate({"model": "m", "messages": MESSAGES}).to_chat()
    assert counted.messages == body().to_chat().messages
    answer = TokenCount(input_tokens=12).model_dump()
    MessageTokensCount.model_validate(answer, strict=True)
    assert client(answer).messages.count_tokens(model="m", messages=MESSAGES).input_tokens == 12


@pytest.mark.parametrize(
    ("status", "theirs", "kind", "raised"),
    [
        (400, 400, "invalid_request_error", anthropic.BadRequestError),
        (401, 401, "authentication_error", anthropic.AuthenticationError),
        (402, 402, "billing_error", anthropic.APIStatusError),
        (403, 403, "permission_error", anthropic.PermissionDeniedError),
        (404, 404, "not_found_error", anthropic.NotFoundError),
        (405, 405, "invalid_request_error", anthropic.APIStatusError),
        (413, 413, "request_too_large", anthropic.APIStatusError),
        (422, 400, "invalid_request_error", anthropic.BadRequestError),
        (429, 429, "rate_limit_error", anthropic.RateLimitError),
        (500, 500, "api_error", anthropic.InternalServerError),
        (502, 500, "api_error", anthropic.InternalServerError),
        (503, 529, "overloaded_error", anthropic.InternalServerError),
    ],
)
def test_errors(status: int, theirs: int, kind: str, raised: type[Exception]) -> None:
    error = ApiError(status, "this is why", param="messages")
    told = error_body(error, "req_1")
    assert told == {"type": "error", "error": {"type": kind, "message": "this is why"}, "request_id": "req_1"}
    assert error_status(error) == theirs
    if kind != "request_too_large":  # which Anthropic documents, and its SDK does not know
        ErrorResponse.model_validate(told, strict=True)
    with pytest.raises(raised, match="this is why"):
        client(told, error_status(error)).messages.create(**ASKED)


def test_the_request_has_a_schema() -> None:
    assert {"model", "messages", "max_tokens"} == set(MessagesBody.model_json_schema()["required"])

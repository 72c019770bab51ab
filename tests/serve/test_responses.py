import json
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from millet.reasoning.reply import Event, Reply
from millet.serve.errors import ApiError
from millet.serve.responses import ResponsesBody
from millet.serve.responses_wire import ResponsesWire
from millet.serve.wire import KEEP_ALIVE
from tests.serve.wires import REPLIES, USAGE, answering, finish, parse, recorded, spoken, stream, texts, without_ids

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASKED: dict[str, Any] = {"model": "m", "input": "Is it warm?"}
TOOL = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def client(*args: Any, **kwargs: Any) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", http_client=answering(*args, **kwargs), max_retries=0)


def body(**fields: Any) -> ResponsesBody:
    return ResponsesBody.model_validate(ASKED | fields)


def wire(**fields: Any) -> ResponsesWire:
    return ResponsesWire(body(**fields))


def said(whole: dict[str, Any] | Response) -> tuple[str, str, list[tuple[str, str, str]]]:
    response = whole if isinstance(whole, Response) else Response.model_validate(whole, strict=True)
    thoughts = [item.content[0].text for item in response.output if item.type == "reasoning"]
    calls = [(item.call_id, item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return "".join(thoughts), response.output_text, calls


def test_stream_to_the_byte() -> None:
    head = {
        "id": "resp_",
        "object": "response",
        "created_at": 1,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": 64,
        "model": "m",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "low", "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }
    thought = {"type": "reasoning_text", "text": "Two days."}
    reasoning = {"id": "rs_", "type": "reasoning", "summary": [], "content": [thought], "status": "completed"}
    answer = {"type": "output_text", "annotations": [], "logprobs": [], "text": 'Let\'s "see"\n'}
    message = {"id": "msg_", "type": "message", "status": "completed", "role": "assistant", "content": [answer]}
    arguments = '{"city": "Köln", "days": 2}'
    call = {
        "id": "fc_",
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": "call_1",
        "name": "get_weather",
    }
    usage = {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 21,
    }
    of_thought = {"item_id": "rs_", "output_index": 0, "content_index": 0}
    of_answer = {"item_id": "msg_", "output_index": 1, "content_index": 0}
    of_call = {"item_id": "fc_", "output_index": 2}
    done = {"status": "completed", "completed_at": 1, "output": [reasoning, message, call], "usage": usage}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": head}),
        ("response.in_progress", {"response": head}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": reasoning | {"content": [], "status": "in_progress"}},
        ),
        ("response.content_part.added", of_thought | {"part": thought | {"text": ""}}),
        ("response.reasoning_text.delta", of_thought | {"delta": "Two "}),
        ("response.reasoning_text.delta", of_thought | {"delta": "days."}),
        ("response.reasoning_text.done", of_thought | {"text": "Two days."}),
        ("response.content_part.done", of_thought | {"part": thought}),
        ("response.output_item.done", {"output_index": 0, "item": reasoning}),
        ("response.output_item.added", {"output_index": 1, "item": message | {"content": [], "status": "in_progress"}}),
        ("response.content_part.added", of_answer | {"part": answer | {"text": ""}}),
        ("response.output_text.delta", of_answer | {"delta": answer["text"], "logprobs": []}),
        ("response.output_text.done", of_answer | {"text": answer["text"], "logprobs": []}),
        ("response.content_part.done", of_answer | {"part": answer}),
        ("response.output_item.done", {"output_index": 1, "item": message}),
        ("response.output_item.added", {"output_index": 2, "item": call | {"arguments": "", "status": "in_progress"}}),
        ("response.function_call_arguments.delta", of_call | {"delta": arguments}),
        ("response.function_call_arguments.done", of_call | {"name": "get_weather", "arguments": arguments}),
        ("response.output_item.done", {"output_index": 2, "item": call}),
        ("response.completed", {"response": head | done}),
    ]
    raw = stream(wire(max_output_tokens=64, reasoning={"effort": "low"}), spoken())
    assert without_ids(raw) == recorded(
        *({"type": kind, "sequence_number": number} | fields for number, (kind, fields) in enumerate(events))
    )


def test_the_sdk_streams_what_it_gets_whole() -> None:
    created = client(wire(tools=[TOOL]).whole([Reply.of(spoken())])).responses.create(**ASKED)
    with client(stream(wire(tools=[TOOL]), spoken())).responses.stream(**ASKED) as events:
        streamed = events.get_final_response()
    expected = ("Two days.", 'Let\'s "see"\n', [("call_1", "get_weather", '{"city": "Köln", "days": 2}')])
    assert said(created) == said(streamed) == expected
    for response in (created, streamed):
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.input_tokens == USAGE.prompt_tokens
        assert response.usage.output_tokens_details.reasoning_tokens == USAGE.reasoning_tokens
        assert response.tools[0].type == "function"


@settings(max_examples=60, print_blob=True)
@given(events=REPLIES)
def test_every_legal_reply_arrives_as_it_was(events: list[Event]) -> None:
    thought, answer, calls = texts(events)
    expected = (thought, answer, [(call.id, call.name, call.arguments) for call in calls])
    raw = stream(wire(), events)
    sent = parse(raw)
    assert [data["sequence_number"] for data in sent] == list(range(len(sent)))
    for data in sent:
        STREAM_EVENT.validate_python(data, strict=True)
    received = list(client(raw).responses.create(**ASKED, stream=True))
    deltas = {"response.reasoning_text.delta": "", "response.output_text.delta": ""}
    for event in received:
        if event.type in deltas:
            deltas[event.type] += event.delta
    assert tuple(deltas.values()) == (thought, answer)
    last = received[-1].response
    whole = Response.model_validate(wire().whole([Reply.of(events)]), strict=True)
    assert said(last) == said(whole) == expected
    assert last.status == whole.status == received[-1].type.removeprefix("response.")
    assert [item.status for item in last.output] == [item.status for item in whole.output]


@pytest.mark.parametrize(
    ("reason", "status", "item_status"),
    [
        ("stop", "completed", "completed"),
        ("loop", "completed", "completed"),
        ("length", "incomplete", "incomplete"),
        ("cancelled", "failed", "incomplete"),
    ],
)
def test_statuses(reason: str, status: str, item_status: str) -> None:
    events = [Event("content", "Hm"), finish(reason)]
    *_, last = client(stream(wire(), events)).responses.create(**ASKED, stream=True)
    whole = client(wire().whole([Reply.of(events)])).responses.create(**ASKED)
    assert last.type == f"response.{status}"
    for response in (last.response, whole):
        assert response.status == status
        assert response.output[0].status == item_status
        assert (response.incomplete_details is not None) == (status == "incomplete")
        assert (response.error is not None) == (status == "failed")
    if status == "incomplete":
        assert whole.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("count", range(6))
def test_a_reply_that_breaks_off_closes_its_items_and_fails(count: int) -> None:
    broken = wire()
    raw = broken.begin() + "".join(map(broken.event, spoken()[:count]))
    raw += broken.fail(ApiError(503, "the engine stopped; try again")) + broken.end()
    events = parse(raw)
    kinds = [event["type"] for event in events]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    assert kinds.count("response.content_part.added") == kinds.count("response.content_part.done")
    *_, last = client(raw).responses.create(**ASKED, stream=True)
    assert last.type == "response.failed"
    STREAM_EVENT.validate_python(events[-1], strict=True)
    assert (last.response.error.code, last.response.error.message) == ("server_error", "the engine stopped; try again")
    assert len(last.response.output) == kinds.count("response.output_item.done")


def test_a_failure_before_the_beginning_and_after_the_end() -> None:
    early = wire()
    raw = early.fail(ApiError(429, "too many requests", param="model"))
    assert raw == recorded(
        {
            "type": "error",
            "sequence_number": 0,
            "code": "rate_limit_exceeded",
            "message": "too many requests",
            "param": "model",
        }
    )
    assert [event.type for event in client(raw).responses.create(**ASKED, stream=True)] == ["error"]
    assert early.fail(ApiError(500, "again")) == ""
    late = wire()
    stream(late, spoken())
    assert late.fail(ApiError(500, "broken")) == ""


def test_keep_alives_pass_by_the_sdk() -> None:
    slow = wire()
    assert slow.keep_alive() == KEEP_ALIVE
    raw = slow.keep_alive() + slow.begin() + slow.keep_alive() + "".join(map(slow.event, spoken()))
    with client(raw).responses.stream(**ASKED) as received:
        assert received.get_final_response().output_text == 'Let\'s "see"\n'


def test_request() -> None:
    asked = body(
        instructions="Be brief.",
        max_output_tokens=64,
        temperature=0.5,
        top_p=0.9,
        stream=True,
        reasoning={"effort": "medium", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
        tools=[TOOL | {"strict": True}],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        metadata={"k": "v"},
        user="u",
        store=False,
        include=["reasoning.encrypted_content"],
        service_tier="auto",
    )
    request = asked.to_chat()
    assert request.model == "m"
    assert request.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it warm?"})
    assert request.options == {
        "max_tokens": 64,
        "temperature": 0.5,
        "top_p": 0.9,
        "think": 2048,
        "schema": SCHEMA,
        "tools": [{"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters")}}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }
    response = Response.model_validate(ResponsesWire(asked).whole([Reply.of(spoken())]), strict=True)
    assert response.instructions == "Be brief."
    assert response.metadata == {"k": "v"}
    assert response.parallel_tool_calls is False
    assert response.text.format.schema_ == SCHEMA
    assert response.tool_choice.name == "get_weather"
    assert response.tools[0].strict is True
    assert response.reasoning.effort == "medium"
    assert body().to_chat().options == {}


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"schema": {"type": "object"}}),
        ({"reasoning": {"effort": "none"}}, {"think": "off"}),
        ({"reasoning": {"summary": "auto"}}, {}),
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
    ],
)
def test_options(fields: dict[str, Any], options: dict[str, Any]) -> None:
    assert body(**fields).to_chat().options == options


def test_a_conversation_with_tools_goes_round() -> None:
    """The SDK's own objects, sent back as its documentation shows it, are read."""
    first = client(wire().whole([Reply.of(spoken())])).responses.create(**ASKED)
    sent: list[dict[str, Any]] = []
    again = client(wire().whole([Reply.of(spoken())]), sent=sent)
    history: list[Any] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Use tools."}]},
        {"role": "user", "content": "Is it warm?"},
        *first.output,
        {"type": "function_call_output", "call_id": "call_1", "output": "20 °C"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "And"}, {"type": "input_text", "text": "now?"}]},
    ]
    again.responses.create(model="m", instructions="Be brief.", input=history)
    function = {"name": "get_weather", "arguments": '{"city": "Köln", "days": 2}'}
    assert ResponsesBody.model_validate(sent[0]).to_chat().messages == (
        {"role": "system", "content": "Be brief.\nUse tools."},
        {"role": "user", "content": "Is it warm?"},
        {
            "role": "assistant",
            "content": 'Let\'s "see"\n',
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "20 °C", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "And\nnow?"},
    )


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, 400, "prompt"),
        ({"background": True}, 400, "background"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input.0.content.0"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]}]}, 400, None),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "input.0"),
        ({"input": [{"type": "web_search_call"}]}, 400, "input.0"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools.0"),
        ({"tool_choice": "required"}, 422, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [TOOL]}, 422, "tool_choice.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, 422, "text.format.schema"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_field(
    fields: dict[str, Any], status: int, param: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        body(**fields).to_chat()
    assert caught.value.status == status
    assert caught.value.param == (param or "input.0.output.0")


def test_the_request_has_a_schema() -> None:
    assert {"model", "input"} == set(ResponsesBody.model_json_schema()["required"])
    json.dumps(ResponsesBody.model_json_schema())

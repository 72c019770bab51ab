"""Events for wire formats to translate, and what clients of server-sent events see of the result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import httpx2
from hypothesis import strategies as st

from millet.reasoning.reply import Event, Reply, ToolCall, Usage
from millet.serve.wire import Wire

USAGE = Usage(prompt_tokens=12, completion_tokens=9, reasoning_tokens=4, cached_tokens=5)
WEATHER = ToolCall("call_1", "get_weather", '{"city": "Köln", "days": 2}')
MESSAGES = [{"role": "user", "content": "Is it warm?"}]


def finish(reason: str = "stop") -> Event:
    return Event("finish", finish_reason=reason, usage=USAGE)


def spoken(*, reason: str = "tool_calls") -> list[Event]:
    return [
        Event("reasoning", "Two ", (1,)),
        Event("reasoning", "days."),
        Event("reasoning", "", (2,)),
        Event("content", 'Let\'s "see"\n'),
        Event("tool_call", tool_call=WEATHER),
        finish(reason),
    ]


def stream(wire: Wire, events: Iterable[Event]) -> str:
    return wire.begin() + "".join(map(wire.event, events)) + wire.end()


def parse(text: str) -> list[dict[str, Any]]:
    """The data of each event; the lines are looked for as the strictest and as the laxest clients do."""
    assert text.endswith("\n\n")
    data = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, line = block.splitlines()  # also at U+2028 and the like, as some clients do
        assert name.startswith("event: ")
        assert line.startswith("data: ")
        data.append(json.loads(line.removeprefix("data: ")))
        assert data[-1]["type"] == name.removeprefix("event: ")
    return data


def without_ids(text: str) -> str:
    """Ids and times as the recorded shapes have them."""
    text = re.sub(r'"((?:msg|resp|rs|fc)_)[0-9a-f]{24,}"', r'"\1"', text)
    return re.sub(r'"(created_at|completed_at)":\d+', r'"\1":1', text)


def recorded(*events: dict[str, Any]) -> str:
    """The bytes of a stream: each event named by its type, on one line."""
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
        for event in events
    )


def answering(
    body: str | dict[str, Any], status: int = 200, *, sent: list[dict[str, Any]] | None = None
) -> httpx2.Client:
    """A client that gets this answer to whatever it asks; what it asked is added to `sent`."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if sent is not None:
            sent.append(json.loads(request.content))
        if isinstance(body, str):
            return httpx2.Response(status, headers={"content-type": "text/event-stream"}, content=body.encode())
        return httpx2.Response(status, json=body)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def texts(events: Iterable[Event]) -> tuple[str, str, list[ToolCall]]:
    """Thought, answer and tool calls that the events make up."""
    reply = Reply.of(events)
    return reply.reasoning, reply.content, list(reply.tool_calls)


TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\r\u2028\u2029\x85\x00\ufeff{}'))
CALLS = st.builds(
    lambda name, value: ToolCall(f"call_{name}", name, json.dumps(value, ensure_ascii=False)),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3),
)
REPLIES = st.builds(
    lambda thoughts, contents, calls, reason: [
        *(Event("reasoning", text) for text in thoughts),
        *(Event("content", text) for text in contents),
        *(Event("tool_call", tool_call=call) for call in calls),
        finish(reason),
    ],
    st.lists(TEXT, max_size=4),
    st.lists(TEXT, max_size=4),
    st.lists(CALLS, max_size=2, unique_by=lambda call: call.id),
    st.sampled_from(["stop", "length", "tool_calls", "loop"]),
)

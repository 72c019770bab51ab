"""Anthropic's Messages: the answer, whole or as a stream of events.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from millet.reasoning.reply import Event, Reply, ToolCall, Usage
from millet.serve.anthropic import error_body
from millet.serve.errors import ApiError
from millet.serve.sse import sse

# A loop was ended and landed, so the turn is over; of a cancelled reply clients must know that it was cut short.
STOP_REASONS = {
    "stop": "end_turn",
    "loop": "end_turn",
    "length": "max_tokens",
    "cancelled": "max_tokens",
    "tool_calls": "tool_use",
}
SIGNATURE = "bWlsbGV0"  # thoughts that come back are not shown to the model, so there is nothing to prove about them
PING = sse({"type": "ping"})


class MessagesWire:
    """model: as the client named it. prompt_tokens: for the usage at the stream's start; the exact one is at its end.

    Which stop string ended a reply is not known here: stop_sequence is null and stop_reason end_turn, also then.
    A reply has one sample.
    """

    def __init__(self, model: str, prompt_tokens: int = 0) -> None:
        self._head: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._usage = Usage(prompt_tokens=prompt_tokens)
        self._index = 0
        self._open: str | None = None  # the kind of event whose block is open
        self._ended = False

    def begin(self) -> str:
        return sse({"type": "message_start", "message": self._head | {"usage": _usage(self._usage)}})

    def event(self, event: Event) -> str:
        if event.kind == "finish":
            return self._finish(event)
        if event.kind == "tool_call":
            assert event.tool_call is not None
            return self._call(event.tool_call)
        if not event.text:
            return ""
        opening = "" if event.kind == self._open else self._close() + self._start(event.kind)
        if event.kind == "reasoning":
            return opening + self._delta({"type": "thinking_delta", "thinking": event.text})
        return opening + self._delta({"type": "text_delta", "text": event.text})

    def end(self) -> str:
        return ""  # message_stop came with the finish

    def fail(self, error: ApiError) -> str:
        if self._ended:
            return ""
        self._ended = True
        return self._close() + sse(error_body(error))

    def keep_alive(self) -> str:
        return PING

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        reply = replies[0]
        content: list[dict[str, Any]] = []
        if reply.reasoning:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": SIGNATURE})
        if reply.content:
            content.append({"type": "text", "text": reply.content})
        content += [_tool_use(call, _input(call)) for call in reply.tool_calls]
        reason = STOP_REASONS[reply.finish_reason]
        return self._head | {"content": content, "stop_reason": reason, "usage": _usage(reply.usage)}

    def _start(self, kind: str) -> str:
        self._open = kind
        if kind == "reasoning":
            return self._block({"type": "thinking", "thinking": "", "signature": ""})
        return self._block({"type": "text", "text": ""})

    def _call(self, call: ToolCall) -> str:
        opening = self._close() + self._block(_tool_use(call, {}))
        self._open = "tool_call"
        arguments = json.dumps(_input(call), ensure_ascii=False)
        return opening + self._delta({"type": "input_json_delta", "partial_json": arguments}) + self._close()

    def _block(self, block: dict[str, Any]) -> str:
        return sse({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> str:
        return sse({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> str:
        if self._open is None:
            return ""
        signed = self._delta({"type": "signature_delta", "signature": SIGNATURE}) if self._open == "reasoning" else ""
        closed = signed + sse({"type": "content_block_stop", "index": self._index})
        self._open = None
        self._index += 1
        return closed

    def _finish(self, event: Event) -> str:
        self._ended = True
        delta = {"stop_reason": STOP_REASONS[event.finish_reason or "stop"], "stop_sequence": None}
        message = {"type": "message_delta", "delta": delta, "usage": _usage(event.usage or self._usage)}
        return self._close() + sse(message) + sse({"type": "message_stop"})


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what came from the cache apart from input_tokens."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _tool_use(call: ToolCall, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": value}


def _input(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object, which clients insist on: {} where the model or an upstream wrote none that is one.

    Half surrogate pairs, which JSON can escape and no client could be sent, become question marks.
    """
    try:
        value = json.loads(call.arguments, parse_constant=_no_constant)
        if isinstance(value, dict):
            return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        pass
    return {}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

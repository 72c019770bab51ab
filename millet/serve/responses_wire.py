"""OpenAI's Responses: the answer, whole or as a stream of events.

https://platform.openai.com/docs/api-reference/responses/object, .../responses-streaming
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from millet.reasoning.reply import Event, Reply, ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.responses import FunctionTool, NamedTool, ResponsesBody
from millet.serve.sse import sse
from millet.serve.wire import KEEP_ALIVE

# A loop was ended and landed: that reply is complete.
STATUSES = {
    "stop": "completed",
    "loop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "cancelled": "failed",
}
CUT_SHORT = ApiError(503, "the reply was cancelled before its end; try again")


class ResponsesWire:
    """body: the request, parts of which the response repeats. A reply has one sample."""

    def __init__(self, body: ResponsesBody) -> None:
        self._head = _head(body)
        self._output: list[dict[str, Any]] = []  # items that are done
        self._item: dict[str, Any] | None = None  # the reasoning or message that is open
        self._texts: list[str] = []  # of the open item
        self._number = 0
        self._ended = False

    def begin(self) -> str:
        return self._event("response.created", response=self._head) + self._event(
            "response.in_progress", response=self._head
        )

    def event(self, event: Event) -> str:
        if event.kind == "finish":
            return self._finish(event)
        if event.kind == "tool_call":
            assert event.tool_call is not None
            return self._close("completed") + self._call(event.tool_call)
        if not event.text:
            return ""
        kind = "reasoning" if event.kind == "reasoning" else "message"
        opening = ""
        if self._item is None or self._item["type"] != kind:
            opening = self._close("completed") + self._start(kind)
        self._texts.append(event.text)
        if kind == "reasoning":
            return opening + self._of_part("response.reasoning_text.delta", delta=event.text)
        return opening + self._of_part("response.output_text.delta", delta=event.text, logprobs=[])

    def end(self) -> str:
        return ""  # the last event came with the finish

    def fail(self, error: ApiError) -> str:
        """With response.failed; or with an `error` event where no response had begun."""
        if self._ended:
            return ""
        self._ended = True
        if not self._number:
            return self._event("error", code=_error_code(error), message=str(error), param=error.param)
        closed = self._close("incomplete")
        return closed + self._event("response.failed", response=self._response("failed", self._output, error=error))

    def keep_alive(self) -> str:
        return KEEP_ALIVE

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        reply = replies[0]
        status = STATUSES[reply.finish_reason]
        output = [_text_item(kind, text) for kind, text in (("reasoning", reply.reasoning), ("message", reply.content))]
        output = [item for item in output if item["content"][0]["text"]]
        output += [_call_item(call) for call in reply.tool_calls]
        if status != "completed" and output and not reply.tool_calls:
            output[-1]["status"] = "incomplete"
        return self._response(status, output, usage=reply.usage, error=CUT_SHORT if status == "failed" else None)

    def _start(self, kind: str) -> str:
        item = _text_item(kind, "")
        part, item["content"] = item["content"][0], []
        self._item, self._texts = item, []
        added = self._of_item("response.output_item.added", item=item | {"status": "in_progress"})
        return added + self._of_part("response.content_part.added", part=part)

    def _close(self, status: str) -> str:
        """End the open item."""
        if self._item is None:
            return ""
        item = self._item | _text_item(self._item["type"], "".join(self._texts), self._item["id"]) | {"status": status}
        part = item["content"][0]
        if item["type"] == "reasoning":
            done = self._of_part("response.reasoning_text.done", text=part["text"])
        else:
            done = self._of_part("response.output_text.done", text=part["text"], logprobs=[])
        done += self._of_part("response.content_part.done", part=part)
        done += self._of_item("response.output_item.done", item=item)
        self._output.append(item)
        self._item = None
        return done

    def _call(self, call: ToolCall) -> str:
        item = _call_item(call)
        ids = {"item_id": item["id"], "output_index": len(self._output)}
        events = (
            self._of_item("response.output_item.added", item=item | {"status": "in_progress", "arguments": ""}),
            self._event("response.function_call_arguments.delta", **ids, delta=call.arguments),
            self._event("response.function_call_arguments.done", **ids, name=call.name, arguments=call.arguments),
            self._of_item("response.output_item.done", item=item),
        )
        self._output.append(item)
        return "".join(events)

    def _finish(self, event: Event) -> str:
        self._ended = True
        status = STATUSES[event.finish_reason or "stop"]
        closed = self._close("completed" if status == "completed" else "incomplete")
        error = CUT_SHORT if status == "failed" else None
        response = self._response(status, self._output, usage=event.usage, error=error)
        return closed + self._event(f"response.{status}", response=response)

    def _event(self, type: str, **fields: Any) -> str:
        numbered = {"type": type, "sequence_number": self._number, **fields}
        self._number += 1
        return sse(numbered)

    def _of_item(self, type: str, *, item: dict[str, Any]) -> str:
        return self._event(type, output_index=len(self._output), item=item)

    def _of_part(self, type: str, **fields: Any) -> str:
        assert self._item is not None
        ids = {"item_id": self._item["id"], "output_index": len(self._output), "content_index": 0}
        return self._event(type, **ids, **fields)

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        usage: Usage | None = None,
        error: ApiError | None = None,
    ) -> dict[str, Any]:
        return self._head | {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "output": output,
            "usage": usage and _usage(usage),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": error and {"code": _error_code(error), "message": str(error)},
        }


def _head(body: ResponsesBody) -> dict[str, Any]:
    """The response before it has any output. What the request left to the model is null."""
    form = body.text and body.text.format
    choice = body.tool_choice or "auto"
    reasoning = body.reasoning
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": reasoning and reasoning.summary},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice,
        "tools": [_tool(tool) for tool in body.tools or () if isinstance(tool, FunctionTool)],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _text_item(kind: str, text: str, id: str | None = None) -> dict[str, Any]:
    """kind: reasoning or message."""
    if kind == "reasoning":
        return {
            "id": id or _id("rs"),
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
            "status": "completed",
        }
    return {
        "id": id or _id("msg"),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
    }


def _call_item(call: ToolCall) -> dict[str, Any]:
    return {
        "id": _id("fc"),
        "type": "function_call",
        "status": "completed",
        "arguments": call.arguments,
        "call_id": call.id,
        "name": call.name,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _error_code(error: ApiError) -> str:
    """One of the words that OpenAI's clients know here."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"

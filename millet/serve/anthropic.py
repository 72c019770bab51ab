"""Anthropic's Messages: the request, its token count, and errors in its shape. The answer is in `anthropic_wire`.

https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from millet.reasoning.assistant import Options
from millet.serve.chat import ChatRequest
from millet.serve.effort import think_of
from millet.serve.errors import ApiError
from millet.serve.turns import add_turn, call_of, tool_of
from millet.serve.validation import Body, tag_of

MESSAGES = 2048  # most messages of one request
BLOCKS = 1024  # most blocks of one message

# https://platform.claude.com/docs/en/api/errors: (status, type). Other 4xx are invalid requests, other 5xx our fault.
ERRORS = {
    401: (401, "authentication_error"),
    402: (402, "billing_error"),
    403: (403, "permission_error"),
    404: (404, "not_found_error"),
    405: (405, "invalid_request_error"),
    409: (409, "conflict_error"),
    413: (413, "request_too_large"),
    429: (429, "rate_limit_error"),
    503: (529, "overloaded_error"),
    504: (504, "timeout_error"),
}


class TextBlock(Body):
    type: Literal["text"]
    text: str


class ThinkingBlock(Body):
    """A thought of an earlier turn: accepted, and not shown to the model."""

    type: Literal["thinking"]
    thinking: str = ""
    signature: str = ""


class RedactedThinkingBlock(Body):
    type: Literal["redacted_thinking"]
    data: str = ""


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OtherBlock(Body):
    """Images, documents, and what Anthropic's own tools bring."""

    type: str


TextOnly = Annotated[
    Annotated[TextBlock, Tag("<text>")] | Annotated[OtherBlock, Tag("<other>")],
    Discriminator(tag_of("text")),
]


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[TextOnly], Field(max_length=BLOCKS)] = ""
    is_error: bool | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[OtherBlock, Tag("<other>")],
    Discriminator(tag_of("text", "thinking", "redacted_thinking", "tool_use", "tool_result")),
]


class Message(Body):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(max_length=BLOCKS, fail_fast=True)]


class Thinking(Body):
    """budget_tokens: the most tokens of a thought. Anthropic asks for at least 1024; here any budget will do."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class Tool(Body):
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None


class OtherTool(Body):
    """A tool that Anthropic runs, or whose description its models know by heart."""

    type: str


def _tool_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<custom>" if kind in (None, "custom") else "<other>"


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(Body):
    user_id: str | None = None


class CountTokensBody(Body):
    """`POST /v1/messages/count_tokens`: what of a request makes up its prompt."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES, fail_fast=True)]
    system: str | Annotated[list[TextOnly], Field(max_length=BLOCKS)] | None = None
    thinking: Thinking | None = None
    tools: (
        Annotated[
            list[
                Annotated[
                    Annotated[Tool, Tag("<custom>")] | Annotated[OtherTool, Tag("<other>")], Discriminator(_tool_tag)
                ]
            ],
            Field(max_length=128),
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None

    def to_chat(self) -> ChatRequest:
        """Raises ApiError for what cannot be answered, naming the field."""
        return ChatRequest(self.model, tuple(self._messages()), cast(Options, self._options()))

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.system:
            add_turn(messages, "system", _text(self.system, "system"))
        for number, message in enumerate(self.messages):
            _add(messages, message, f"messages.{number}.content")
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and "tool_calls" not in last:
            last["prefix"] = True  # Anthropic's prefill: the reply goes on from there
        return messages

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        config = self.output_config or OutputConfig()
        think = think_of(config.effort, self.thinking.model_dump() if self.thinking else None)
        if think is not None:
            options["think"] = think
        if config.format is not None:
            options["schema"] = config.format.schema_
        if self.tools:
            options["tools"] = [_tool(tool, number) for number, tool in enumerate(self.tools)]
        if self.tools or self.tool_choice:
            options["tool_choice"] = self._choice()
        return options

    def _choice(self) -> Any:
        choice = self.tool_choice or ToolChoice(type="auto")
        names = [tool.name for tool in self.tools or () if isinstance(tool, Tool)]
        if choice.type in ("any", "tool") and not names:
            raise ApiError(422, "tool_choice asks for a tool, and tools names none", param="tool_choice")
        if choice.type != "tool":
            return {"any": "required"}.get(choice.type, choice.type)
        if choice.name not in names:
            raise ApiError(422, "tool_choice.name is not among the tools", param="tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}


class MessagesBody(CountTokensBody):
    """`POST /v1/messages`. Fields that only matter to Anthropic (cache_control, service_tier, ...) are ignored."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31)]
    stream: bool | None = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    metadata: Metadata | None = None

    def _options(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
        given["stop"] = self.stop_sequences or None
        return super()._options() | {name: value for name, value in given.items() if value is not None}


class TokenCount(Body):
    """The answer of count_tokens. input_tokens: of the whole prompt, as `Prepared.prompt_tokens` gives it."""

    input_tokens: int


def error_status(error: ApiError) -> int:
    """The HTTP status that Anthropic documents for it; 529 where the others say 503."""
    return ERRORS.get(error.status, (500,) if error.status >= 500 else (400,))[0]


def error_body(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    """In Anthropic's shape; sent with `error_status`. The field that it is about is named in the message."""
    fallback = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = ERRORS[error.status][1] if error.status in ERRORS else fallback
    return {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": request_id}


def _add(messages: list[dict[str, Any]], message: Message, where: str) -> None:
    """Add a message. Tool results stand inside a user's message there, and in messages of their own here."""
    if isinstance(message.content, str):
        add_turn(messages, message.role, message.content)
        return
    if not message.content:
        raise ApiError(400, f"{where} is empty; give it some text", param=where)
    for number, block in enumerate(message.content):
        path = f"{where}.{number}"
        match block:
            case TextBlock():
                add_turn(messages, message.role, block.text)
            case ToolUseBlock():
                _only(message.role == "assistant", "tool_use", path)
                call = call_of(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
                add_turn(messages, "assistant", "", calls=[call])
            case ToolResultBlock():
                _only(message.role == "user", "tool_result", path)
                text = _text(block.content, f"{path}.content")
                add_turn(messages, "tool", text, tool_call_id=block.tool_use_id)
            case OtherBlock():
                raise _unread(path)


def _only(right: bool, kind: str, path: str) -> None:
    if not right:
        speaker = "an assistant's" if kind == "tool_use" else "a user's"
        raise ApiError(400, f"{path} is of type {kind}, which belongs into {speaker} message", param=path)


def _text(content: str | Sequence[TextBlock | OtherBlock], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, block in enumerate(content):
        if not isinstance(block, TextBlock):
            raise _unread(f"{where}.{number}")
        texts.append(block.text)
    return "\n".join(texts)


def _unread(path: str) -> ApiError:
    return ApiError(400, f"{path} is not text; the models here read text, so leave images and files out", param=path)


def _tool(tool: Tool | OtherTool, number: int) -> dict[str, Any]:
    if not isinstance(tool, Tool):
        message = f"tools.{number} is a tool of Anthropic's; here a tool has a name and an input_schema"
        raise ApiError(400, message, param=f"tools.{number}")
    return tool_of(tool.name, tool.description, tool.input_schema)

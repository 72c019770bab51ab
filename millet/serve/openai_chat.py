"""OpenAI's and DeepSeek's chat completions: the request.

https://platform.openai.com/docs/api-reference/chat, https://api-docs.deepseek.com/api/create-chat-completion
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from millet.reasoning.assistant import Options
from millet.serve.chat import ChatRequest
from millet.serve.effort import think_of
from millet.serve.errors import ApiError
from millet.serve.validation import Body, at_most, tag_of

MESSAGES = 2048  # most messages of one request
PARTS = 1024  # most parts of one message
TOOLS = 128  # most tools, and most calls in one message
SAMPLES = 16  # most replies to one request
TOKEN_ID = re.compile(r"[0-9]{1,9}")


class TextPart(Body):
    type: Literal["text"]
    text: str


class OtherPart(Body):
    type: str


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[OtherPart, Tag("<other>")], Discriminator(tag_of("text"))
]


class FunctionCall(Body):
    name: str
    arguments: str = ""


class ToolCallBody(Body):
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """prefix: DeepSeek's; the last message, an assistant's, is to be continued. A thought of another is ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(max_length=PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCallBody], Field(max_length=TOOLS)] | None = None
    tool_call_id: str | None = None
    prefix: bool | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class FunctionBody(Body):
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class Thinking(Body):
    """budget_tokens: the most tokens of a thought."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] = "enabled"
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class SamplingBody(Body):
    """What chat and plain completions have in common. top_k, min_p and repetition_penalty are Millet's own."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], at_most(1024)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=SAMPLES)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    user: str | None = None

    def options(self) -> dict[str, Any]:
        """As `Assistant` takes them."""
        given = {
            name: getattr(self, name)
            for name in (
                *("temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
                *("presence_penalty", "frequency_penalty", "seed", "n", "max_tokens"),
            )
        }
        given["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        given["stop"] = [text for text in given["stop"] or () if text] or None
        given["logit_bias"] = self._bias()
        return {name: value for name, value in given.items() if value is not None}

    def _bias(self) -> dict[int, float] | None:
        if not self.logit_bias:
            return None
        if not all(map(TOKEN_ID.fullmatch, self.logit_bias)):
            raise ApiError(422, "logit_bias maps token ids, such as 42, to numbers", param="logit_bias")
        return {int(key): value for key, value in self.logit_bias.items()}


class ChatBody(SamplingBody):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    thinking: Thinking | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def to_chat(self) -> ChatRequest:
        """Raises ApiError for what cannot be answered, naming the field."""
        options = self.options()
        if self.max_completion_tokens is not None:
            options["max_tokens"] = self.max_completion_tokens
        think = think_of(self.reasoning_effort, self.thinking.model_dump(exclude_none=True) if self.thinking else None)
        if think is not None:
            options["think"] = think
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(422, "top_logprobs needs logprobs: true", param="top_logprobs")
        if self.logprobs:
            options |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if self.tools:
            options["tools"] = [tool.model_dump(exclude_none=True) for tool in self.tools]
            options["tool_choice"] = self._choice()
        elif isinstance(self.tool_choice, NamedTool) or self.tool_choice == "required":
            raise ApiError(422, "tool_choice asks for a tool, and tools names none", param="tool_choice")
        schema = self._schema()
        if schema is not None:
            options["schema"] = schema
        return ChatRequest(self.model, tuple(map(_message, self.messages)), cast(Options, options))

    def _choice(self) -> Any:
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            if name not in [tool.function.name for tool in self.tools or ()]:
                raise ApiError(422, "tool_choice names a function that is not among the tools", param="tool_choice")
            return self.tool_choice.model_dump()
        return self.tool_choice or "auto"

    def _schema(self) -> dict[str, Any] | None:
        match self.response_format:
            case ResponseFormat(type="json_object"):
                return {"type": "object"}
            case ResponseFormat(type="json_schema", json_schema=None):
                raise ApiError(422, "response_format of type json_schema needs json_schema", param="response_format")
            case ResponseFormat(type="json_schema", json_schema=JsonSchema(schema_=schema)):
                return schema
        return None


def _message(message: Message) -> dict[str, Any]:
    """As chat templates take it: text contents, no thoughts of earlier turns."""
    made: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content_text(message.content),
    }
    if message.tool_calls:
        made["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    for name in ("name", "tool_call_id", "prefix"):
        if value := getattr(message, name):
            made[name] = value
    if message.prefix and (thought := message.reasoning_content or message.reasoning):
        made["reasoning_content"] = thought
    return made


def content_text(content: str | list[TextPart | OtherPart] | None) -> str:
    """The text of a message. Raises ApiError where a part is something else."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, TextPart):
                raise ApiError(400, "the models here read text; leave images, audio and files out", param="messages")
        return "".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""

"""OpenAI's Responses: the request. The answer is in `responses_wire`.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from millet.reasoning.assistant import Options
from millet.serve.chat import ChatRequest
from millet.serve.effort import Effort, think_of
from millet.serve.errors import ApiError
from millet.serve.turns import add_turn, call_of, tool_of
from millet.serve.validation import Body, at_most, tag_of

ITEMS = 4096  # most items of one request
PARTS = 1024  # most parts of one item

# What stands for something that a server would have kept, or would go on with after the answer.
KEPT = ("previous_response_id", "conversation", "prompt")


class TextPart(Body):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(Body):
    type: Literal["refusal"]
    refusal: str


class OtherPart(Body):
    """Images, files and sound."""

    type: str


Part = Annotated[
    Annotated[TextPart, Tag("<input_text>")]
    | Annotated[TextPart, Tag("<output_text>")]
    | Annotated[TextPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[OtherPart, Tag("<other>")],
    Discriminator(tag_of("input_text", "output_text", "text", "refusal")),
]
Parts = str | Annotated[list[Part], Field(max_length=PARTS)]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class ReasoningItem(Body):
    """A thought of an earlier turn: accepted, and not shown to the model."""

    type: Literal["reasoning"]


class FunctionCallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"


class FunctionCallOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: Parts


class OtherItem(Body):
    """What stands for something kept, and what OpenAI's own tools bring."""

    type: str


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionCallOutputItem, Tag("<function_call_output>")]
    | Annotated[OtherItem, Tag("<other>")],
    Discriminator(tag_of("message", "reasoning", "function_call", "function_call_output", default="message")),
]


class FunctionTool(Body):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OtherTool(Body):
    """A tool that OpenAI runs."""

    type: str


Tool = Annotated[
    Annotated[FunctionTool, Tag("<function>")] | Annotated[OtherTool, Tag("<other>")],
    Discriminator(tag_of("function")),
]


class NamedTool(Body):
    type: Literal["function"]
    name: str


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None


class Reasoning(Body):
    """summary: accepted; the thought comes as it is, in the item's content, and is not summed up."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesBody(Body):
    """`POST /v1/responses`. Nothing is kept, whatever `store` says: the response says `"store": false`. `include` is
    accepted and adds nothing. Fields that only matter to OpenAI (service_tier, prompt_cache_key, ...) are ignored."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1, max_length=ITEMS, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, str], at_most(16)] | None = None
    user: str | None = None
    store: bool | None = None
    include: Annotated[list[str], Field(max_length=64)] | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None

    def to_chat(self) -> ChatRequest:
        """Raises ApiError for what cannot be answered, naming the field."""
        self._check_nothing_kept()
        return ChatRequest(self.model, tuple(self._messages()), cast(Options, self._options()))

    def _check_nothing_kept(self) -> None:
        for name in KEPT:
            if getattr(self, name) is not None:
                message = f"{name} is not supported: nothing is stored here; send the whole conversation as input"
                raise ApiError(400, message, param=name)
        if self.background:
            message = "background is not supported: nothing is stored here; wait for the answer, or stream it"
            raise ApiError(400, message, param="background")

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            add_turn(messages, "system", self.instructions)
        if isinstance(self.input, str):
            add_turn(messages, "user", self.input)
        else:
            for number, item in enumerate(self.input):
                _add(messages, item, f"input.{number}")
        return messages

    def _options(self) -> dict[str, Any]:
        given = {
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "think": think_of(self.reasoning.effort if self.reasoning else None),
            "schema": self._schema(),
            "tools": [_tool(tool, number) for number, tool in enumerate(self.tools or ())] or None,
            "tool_choice": self._choice(),
        }
        return {name: value for name, value in given.items() if value is not None}

    def _schema(self) -> dict[str, Any] | None:
        form = (self.text and self.text.format) or TextFormat()
        if form.type == "json_schema":
            if form.schema_ is None:
                raise ApiError(422, "text.format of type json_schema needs a schema", param="text.format.schema")
            return form.schema_
        return {"type": "object"} if form.type == "json_object" else None

    def _choice(self) -> Any:
        names = [tool.name for tool in self.tools or () if isinstance(tool, FunctionTool)]
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.name not in names:
                raise ApiError(422, "tool_choice.name is not among the tools", param="tool_choice.name")
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        if self.tool_choice == "required" and not names:
            raise ApiError(422, "tool_choice asks for a tool, and tools names none", param="tool_choice")
        return self.tool_choice or ("auto" if names else None)


def _add(messages: list[dict[str, Any]], item: Any, where: str) -> None:
    match item:
        case MessageItem():
            role = "system" if item.role == "developer" else item.role
            add_turn(messages, role, _text(item.content, f"{where}.content"))
        case FunctionCallItem():
            call = call_of(item.call_id, item.name, item.arguments)
            add_turn(messages, "assistant", "", calls=[call])
        case FunctionCallOutputItem():
            add_turn(messages, "tool", _text(item.output, f"{where}.output"), tool_call_id=item.call_id)
        case OtherItem(type="item_reference"):
            message = f"{where} refers to a stored item, and nothing is stored here; send the item itself"
            raise ApiError(400, message, param=where)
        case OtherItem():
            message = (
                f"{where} is not an item that is read here: message, reasoning, function_call, function_call_output"
            )
            raise ApiError(400, message, param=where)


def _text(content: str | Sequence[Any], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, OtherPart):
            path = f"{where}.{number}"
            message = f"{path} is not text; the models here read text, so leave images, files and sound out"
            raise ApiError(400, message, param=path)
        texts.append(part.text if isinstance(part, TextPart) else part.refusal)
    return "\n".join(texts)


def _tool(tool: FunctionTool | OtherTool, number: int) -> dict[str, Any]:
    if isinstance(tool, OtherTool):
        message = f"tools.{number} is a tool of OpenAI's; here tools are of type function"
        raise ApiError(400, message, param=f"tools.{number}")
    return tool_of(tool.name, tool.description, tool.parameters)

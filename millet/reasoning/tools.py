"""Tools in the prompt: what the caller offers, and what has been called, as the model's template can show them.

A template that knows nothing of tools gets them in the system message, in the words of Hermes that many models have
seen, and earlier calls and their results as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from millet.errors import BadRequest, UnsupportedModel
from millet.models.chat_template import ChatTemplate

MOST = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
PROBE = "millet_probe"
ARGUMENTS = '{"millet": "probe"}'

Message = Mapping[str, Any]
Choice = Literal["none", "auto", "required"] | Mapping[str, Any]

GUIDE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request offers. functions: by name, with their parameters' schema. must: those of which one has to be
    called; empty where the model is free."""

    listed: tuple[Mapping[str, Any], ...]
    functions: Mapping[str, Any]
    must: tuple[str, ...] = ()


def parse_tools(tools: Any, choice: Any) -> Tools | None:
    """None where there are none to be used. Raises BadRequest for what OpenAI's format does not have."""
    if tools is not None and (not isinstance(tools, Sequence) or isinstance(tools, str) or len(tools) > MOST):
        raise BadRequest(f"tools must be a list of at most {MOST} functions")
    functions: dict[str, Any] = {}
    for number, tool in enumerate(tools or (), 1):
        name, parameters = _function(number, tool)
        if name in functions:
            raise BadRequest(f"tool {number} is another function {name!r}; give each a name of its own")
        functions[name] = parameters
    listed = tuple(tools or ())
    if choice == "none" or (choice in (None, "auto") and not functions):
        return None
    if not functions:
        raise BadRequest(f"tool_choice is {choice!r}, but there are no tools; send some, or leave it out")
    if choice in (None, "auto"):
        return Tools(listed, functions)
    if choice == "required":
        return Tools(listed, functions, tuple(functions))
    function = choice.get("function") if isinstance(choice, Mapping) else None
    named = function.get("name") if isinstance(function, Mapping) else None
    if named not in functions:
        raise BadRequest(
            f"tool_choice is {choice!r}; it must be none, auto, required, or "
            '{"type": "function", "function": {"name": one of the tools}}'
        )
    return Tools(listed, functions, (str(named),))


def _function(number: int, tool: Any) -> tuple[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(
            f'tool {number} must be {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}, '
            "its name of at most 64 letters, digits, dots, dashes and underscores"
        )
    parameters = function.get("parameters")
    if parameters is None:
        return name, {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise BadRequest(f"the parameters of the tool {name!r} must be a JSON schema, as an object")
    return name, parameters


@dataclass(frozen=True, slots=True)
class ToolTemplate:
    """What a chat template makes of tools. offered: it shows them. arguments: how it wants those of earlier calls, as
    JSON text or as an object; None where it does not show calls."""

    offered: bool
    arguments: Literal["text", "object"] | None


def tool_template(template: ChatTemplate) -> ToolTemplate:
    """Tried out on a tool and on a call of it."""
    tool = {"type": "function", "function": {"name": PROBE, "description": ".", "parameters": {"type": "object"}}}
    ask: Message = {"role": "user", "content": "."}
    offered = PROBE in _rendered(template, [ask], [tool])
    for kind, arguments in (("text", ARGUMENTS), ("object", json.loads(ARGUMENTS))):
        call = {"id": "call_000000000", "type": "function", "function": {"name": PROBE, "arguments": arguments}}
        messages: list[Message] = [ask, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "."}]
        if ARGUMENTS in _rendered(template, messages, [tool] if offered else None):
            return ToolTemplate(offered, "text" if kind == "text" else "object")
    return ToolTemplate(offered, None)


def _rendered(template: ChatTemplate, messages: list[Message], tools: list[Message] | None) -> str:
    try:
        return template.render(messages, tools=tools)
    except (BadRequest, UnsupportedModel):
        return ""


def shown_messages(shows: ToolTemplate, messages: Sequence[Message], tools: Tools | None) -> list[Message]:
    """The messages as the template can show them. Raises BadRequest for calls that are none."""
    shown = [_shown(shows, number, message) for number, message in enumerate(messages, 1)]
    return shown if tools is None or shows.offered else _with_guide(shown, tools)


def _with_guide(messages: list[Message], tools: Tools) -> list[Message]:
    guide = GUIDE.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools.listed))
    own = messages[0].get("content") if messages[0].get("role") == "system" else None
    if isinstance(own, str) and own:
        guide = f"{own}\n\n{guide}"
    content = [*own, {"type": "text", "text": guide}] if own and not isinstance(own, str) else guide
    return [{"role": "system", "content": content}, *(messages if own is None else messages[1:])]


def _shown(shows: ToolTemplate, number: int, message: Message) -> Message:
    calls = message.get("tool_calls")
    if message.get("role") == "tool" and shows.arguments is None:
        return {"role": "user", "content": f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"}
    if message.get("role") != "assistant" or not calls:
        return message
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise BadRequest(f"message {number} has tool_calls that are no list")
    parsed = [_call(number, call) for call in calls]
    if shows.arguments is None:
        return _as_text(message, parsed)
    kept = {key: value for key, value in message.items() if key != "content" or value}
    return {**kept, "tool_calls": [_written(call, shows.arguments) for call in parsed]}


def _as_text(message: Message, calls: list[dict[str, Any]]) -> Message:
    told = [json.dumps({k: call[k] for k in ("name", "arguments")}, ensure_ascii=False) for call in calls]
    parts = [_text(message.get("content")), *(f"<tool_call>\n{text}\n</tool_call>" for text in told)]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": "\n".join(filter(None, parts))}


def _written(call: dict[str, Any], how: Literal["text", "object"]) -> dict[str, Any]:
    arguments = call["arguments"]
    if how == "text":
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _call(number: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(function, Mapping):
        raise BadRequest(f'message {number} has a tool call without {{"function": {{"name": ..., "arguments": ...}}}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"message {number} calls {name!r} with arguments that are no JSON") from error
    if not isinstance(arguments, Mapping):
        raise BadRequest(f"message {number} calls {name!r} with arguments that are no JSON object")
    return {"id": str(call.get("id") or ""), "name": name, "arguments": arguments}


def _text(content: Any) -> str:
    """Of a content in one of its forms; what else it may be is the template's to refuse."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""

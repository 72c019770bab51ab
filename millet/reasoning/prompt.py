"""From messages to the ids a reply starts from, its thought opened, closed or left to the model as `think` asks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from millet.errors import BadRequest
from millet.models.chat_template import ChatTemplate, encode_chat
from millet.models.tokenizer import Tokenizer
from millet.reasoning.format import ThinkFormat
from millet.reasoning.protocol import with_protocol
from millet.reasoning.state import Phase

ROLES = ("system", "user", "assistant", "tool")

Mode = Literal["off", "auto", "on"]
Think = Mode | int


@dataclass(frozen=True, slots=True)
class Prompt:
    """token_ids, and the phase in which the reply begins after them. begun: in the middle of a thought's text. written:
    the ids of the content that is there already."""

    token_ids: list[int]
    phase: Phase
    begun: bool = False
    written: tuple[int, ...] = ()


def parse_think(think: Think) -> tuple[Mode, int | None]:
    """(mode, budget in tokens). A budget turns thinking on, a budget of 0 off. Raises BadRequest for anything else."""
    if isinstance(think, int) and not isinstance(think, bool) and think >= 0:
        return ("on", think) if think else ("off", 0)
    if think in ("off", "auto", "on") and isinstance(think, str):
        return think, 0 if think == "off" else None
    raise BadRequest(f"think is {think!r}; it must be off, auto, on, or the most tokens to think for, such as 256")


def check_messages(messages: Any) -> None:
    """Roles, and who speaks last; the rest is the chat template's to check. Raises BadRequest."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BadRequest('messages must be a list of at least one {"role": ..., "content": ...}')
    role = None
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            near = difflib.get_close_matches(str(role), ROLES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(ROLES)}"
            raise BadRequest(f"message {number} has the role {role!r}; {hint}")
    if is_prefix(messages[-1]):
        if len(messages) == 1:
            raise BadRequest("there is only a beginning of a reply; put what the user asks before it")
        role = messages[-2].get("role")
    if role not in ("user", "tool"):
        raise BadRequest(
            f"the last message is of role {role!r}; end with what the user asks, or let the beginning of a reply have "
            '"prefix": true'
        )


def is_prefix(message: Mapping[str, Any]) -> bool:
    """Whether it is the beginning of the reply, which the model is to go on from."""
    return message.get("role") == "assistant" and message.get("prefix") is True


def build_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    think: ThinkFormat,
    messages: Sequence[Mapping[str, Any]],
    mode: Mode,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Prompt:
    """Render the messages once, and see to it that the thought is open ("on") or cannot be open ("off") at the end.

    A last message that is a prefix is written out after that. Its content closes the thought; where it has only a
    thought ("reasoning_content"), this goes on, unless the mode is "off".
    Thoughts of earlier turns are left to the template: most show the model none of them. tools: for the template.
    Raises BadRequest for messages that the template cannot render.
    """
    if is_prefix(messages[-1]):
        thought, content = _prefix(messages[-1])
        if thought or content:
            begun = build_prompt(template, tokenizer, think, messages[:-1], "on" if thought else "off", tools)
            return _continued(tokenizer, think, begun, thought, content, mode)
        messages = messages[:-1]
    if mode == "on" and not think.own:
        messages = with_protocol(messages)
    switches: dict[str, Any] = {think.switch: mode == "on"} if think.switch and mode != "auto" else {}
    ids = encode_chat(template, tokenizer, messages, tools=tools, **switches)
    tail = think.tail(tokenizer, ids)
    if mode == "on" and tail != "open":
        ids += think.opening
        tail = "open"
    elif mode == "off" and tail == "open":
        ids += think.closing
        tail = "closed"
    elif mode == "off" and tail == "bare" and think.own and not think.switch:
        ids += (*think.opening, *think.closing)
        tail = "closed"
    if tail == "open":
        return Prompt(ids, Phase.THOUGHT)
    return Prompt(ids, Phase.OPENING if think.own and tail == "bare" else Phase.CONTENT)


def _prefix(message: Mapping[str, Any]) -> tuple[str, str]:
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content") or ""
    if not isinstance(thought, str) or not isinstance(content, str):
        raise BadRequest("a last message with prefix must have text as its content and reasoning_content")
    return thought, content


def _continued(
    tokenizer: Tokenizer, think: ThinkFormat, begun: Prompt, thought: str, content: str, mode: Mode
) -> Prompt:
    ids = begun.token_ids + tokenizer.encode_plain(thought, at_start=False)
    if thought and not content and mode != "off":
        return Prompt(ids, Phase.THOUGHT, begun=True)
    if thought:
        ids += think.closing
    written = tokenizer.encode_plain(content, at_start=False)
    return Prompt(ids + written, Phase.CONTENT, written=tuple(written))

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
    """token_ids, and the phase in which the reply begins after them."""

    token_ids: list[int]
    phase: Phase


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
    if role not in ("user", "tool"):
        raise BadRequest(f"the last message is of role {role!r}; end with what the user asks")


def build_prompt(
    template: ChatTemplate, tokenizer: Tokenizer, think: ThinkFormat, messages: Sequence[Mapping[str, Any]], mode: Mode
) -> Prompt:
    """Render the messages once, and see to it that the thought is open ("on") or cannot be open ("off") at the end.

    Thoughts of earlier turns are left to the template: most show the model none of them.
    Raises BadRequest for messages that the template cannot render.
    """
    if mode == "on" and not think.own:
        messages = with_protocol(messages)
    switches: dict[str, Any] = {think.switch: mode == "on"} if think.switch and mode != "auto" else {}
    ids = encode_chat(template, tokenizer, messages, **switches)
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

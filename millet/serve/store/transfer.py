"""Conversations out of Millet and into it: JSON holds the whole tree, Markdown one branch for people to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from millet.serve.errors import ApiError
from millet.serve.store.records import Conversation, Message

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def in_order(nodes: Sequence[Message]) -> list[Message]:
    """Parents before their children, else as they came. Raises ApiError 422 for what is not a tree. A reply that was
    streaming where it came from is an interrupted one here."""
    ids = [node.id for node in nodes]
    if len(set(ids)) < len(ids):
        raise ApiError(422, "two messages have the same id; export the conversation again", param="messages")
    children: dict[str | None, list[Message]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    ordered = []
    waiting = list(reversed(children.get(None, [])))
    while waiting:
        node = waiting.pop()
        ordered.append(replace(node, status="interrupted") if node.status == "streaming" else node)
        waiting += reversed(children.get(node.id, []))
    if len(ordered) < len(nodes):
        raise ApiError(
            422,
            "a message's parent is missing, or follows from itself; export the conversation again",
            param="messages",
        )
    return ordered


def to_markdown(conversation: Conversation, branch: Sequence[Message]) -> str:
    """The thoughts are folded away, as GitHub and most viewers show them."""
    parts = [f"# {conversation.title or 'Conversation'}"]
    for message in branch:
        speaker = SPEAKERS[message.role] + (f" ({message.model})" if message.model else "")
        parts.append(f"## {speaker}")
        if message.reasoning:
            seconds = f", {message.thought_seconds:.0f} s" if message.thought_seconds else ""
            parts.append(f"<details><summary>Reasoning{seconds}</summary>\n\n{message.reasoning.strip()}\n\n</details>")
        parts += [f"File {_code(file.name)}:\n\n{_fenced(file.text)}" for file in message.attachments]
        if message.content:
            parts.append(message.content.strip())
        parts += [f"Calls {_code(call.name)}:\n\n{_fenced(call.arguments, 'json')}" for call in message.tool_calls]
        if message.status in ("stopped", "failed", "interrupted"):
            parts.append(f"*({message.status})*")
    return "\n\n".join(parts) + "\n"


def _fenced(text: str, language: str = "") -> str:
    """A block that the text cannot close."""
    fence = "`" * max(3, _longest_run(text) + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"


def _code(text: str) -> str:
    mark = "`" * (_longest_run(text) + 1)
    return f"{mark} {text} {mark}" if "`" in text else f"{mark}{text}{mark}"


def _longest_run(text: str) -> int:
    """Of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)

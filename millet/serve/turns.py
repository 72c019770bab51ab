"""Conversations as chat templates read them: one turn for all that a speaker says in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

JOINED = ("system", "user", "assistant")


def add_turn(
    messages: list[dict[str, Any]], role: str, text: str, *, calls: Sequence[Mapping[str, Any]] = (), **fields: str
) -> None:
    """Append a message in OpenAI's form, or add to the last one where it is the same speaker's.

    Templates know one turn for each speaker, where the wire formats allow several items in a row.
    """
    last = messages[-1] if messages else {}
    if role in JOINED and last.get("role") == role:
        last["content"] = "\n".join(filter(None, (last["content"], text)))
    else:
        messages.append({"role": role, "content": text, **fields})
    if calls:
        messages[-1].setdefault("tool_calls", []).extend(calls)


def call_of(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of an earlier turn. arguments: a JSON object, as text."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_of(name: str, description: str | None, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """A function that the model may call. schema: of its arguments."""
    function: dict[str, Any] = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}

"""What the store gives and takes. Times are seconds since 1970, UTC."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from millet.reasoning.reply import ToolCall, Usage

MessageRole = Literal["system", "user", "assistant", "tool"]
ID = "^[0-9a-z]{1,64}$"  # what an identifier looks like
Status = Literal["streaming", "complete", "stopped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """updated: when its newest message began or ended."""

    id: str
    title: str
    created: float
    updated: float


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that a person sent with a message, as text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One node of a conversation's tree. Siblings, messages with one parent, are versions: an edit or another reply.

    status: "streaming" while it is written; "stopped" by the person; "failed" by an error; "interrupted" when the
    server died. model: which wrote it. tool_call_id: what a tool's answer refers to. seconds: that the reply took, once
    its turn had come; thought_seconds: of them, those of the thought.
    """

    id: str
    conversation: str
    parent: str | None
    role: MessageRole
    content: str
    attachments: tuple[Attachment, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    model: str | None = None
    status: Status = "complete"
    finish_reason: str | None = None
    usage: Usage | None = None
    thought_seconds: float = 0.0
    seconds: float | None = None
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """next: what to give as `after` for the page that follows; None on the last."""

    conversations: Sequence[Conversation]
    next: str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole conversation; the messages in the order in which they were begun, so parents come first."""

    conversation: Conversation
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Hit:
    """Something found. message: None where the title was. snippet: the text around the first word found."""

    conversation: str
    title: str
    message: str | None
    snippet: str
    created: float


def new_id() -> str:
    """128 random bits: nobody guesses one."""
    return secrets.token_hex(16)


def clean(text: str) -> str:
    """Without what a database cannot hold: PostgreSQL no NUL, neither of them half a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")

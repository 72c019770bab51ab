"""Conversations of the account that asks. Replies are streamed into them by the chat routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field, model_validator

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.attachments import Files, stored
from millet.serve.caller import Caller
from millet.serve.dependencies import get_caller, get_store
from millet.serve.store import Conversation, Hit, Message, Page, Store, Tree
from millet.serve.store.records import ID, MessageRole, Status
from millet.serve.store.transfer import in_order, to_markdown

router = APIRouter(prefix="/api/conversations", tags=["conversations"])

MOST_MESSAGES = 20_000  # of an imported conversation
MOST_CALLS = 1024  # of one message of it
LATEST = 4e9  # seconds since 1970: the year 2096

CallerNow = Annotated[Caller, Depends(get_caller)]
StoreNow = Annotated[Store, Depends(get_store)]
ConversationId = Annotated[str, Path(pattern=ID)]
Id = Annotated[str, Field(pattern=ID)]
Title = Annotated[str, Field(max_length=1000)]


class NewConversation(BaseModel):
    """title: without one, the beginning of the first thing that is said."""

    title: Title = ""


class NewTitle(BaseModel):
    title: Title


class NewMessage(BaseModel):
    """parent: the message that it follows; null begins the conversation. An edit is a new message with the old one's
    parent. tool_call_id: of a tool's answer."""

    parent: Id | None = None
    role: Literal["system", "user", "tool"] = "user"
    content: str
    tool_call_id: str | None = None


class Node(BaseModel):
    """A message of an exported conversation. Its id matters within the document alone."""

    id: str = Field(max_length=200)
    parent: str | None = None
    role: MessageRole
    content: str
    attachments: Files = Field(default_factory=list)
    reasoning: str = ""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS)] = []
    tool_call_id: str | None = None
    model: str | None = None
    status: Status = "complete"
    finish_reason: str | None = None
    usage: Usage | None = None
    thought_seconds: Annotated[float, Field(ge=0, le=LATEST)] = 0.0
    seconds: Annotated[float, Field(ge=0, le=LATEST)] | None = None
    created: Annotated[float, Field(ge=0, le=LATEST)] = 0.0

    @model_validator(mode="after")
    def _sent_by_a_person(self) -> Node:
        if self.attachments and self.role != "user":
            raise ValueError("should have attachments where its role is user, and there alone")
        return self


class Document(BaseModel):
    """A whole conversation, with all branches."""

    format: Literal["millet-conversation"] = "millet-conversation"
    version: Literal[1] = 1
    title: Title = ""
    messages: Annotated[list[Node], Field(max_length=MOST_MESSAGES, fail_fast=True)]


@router.get("")
def list_conversations(
    caller: CallerNow, store: StoreNow, limit: Annotated[int, Query(ge=1, le=200)] = 50, after: str | None = None
) -> Page:
    """Newest first. `after`: `next` of the page before."""
    return store.conversations.list(caller.account, limit, after)


@router.post("", status_code=201)
def create_conversation(body: NewConversation, caller: CallerNow, store: StoreNow) -> Conversation:
    """An empty conversation."""
    return store.conversations.create(caller.account, body.title)


@router.get("/search")
def search_conversations(
    q: Annotated[str, Query(max_length=1000)],
    caller: CallerNow,
    store: StoreNow,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Sequence[Hit]:
    """Messages and titles that have all words of `q`, newest first."""
    return store.search(caller.account, q, limit)


@router.post("/import", status_code=201)
def import_conversation(body: Document, caller: CallerNow, store: StoreNow) -> Conversation:
    """What an export wrote, as a new conversation."""
    nodes = [
        Message(
            conversation="",
            **{name: getattr(node, name) for name in Node.model_fields}
            | {"tool_calls": tuple(node.tool_calls), "attachments": stored(node.attachments)},
        )
        for node in body.messages
    ]
    return store.conversations.add_tree(caller.account, body.title, in_order(nodes))


@router.get("/{conversation}")
def get_conversation(conversation: ConversationId, caller: CallerNow, store: StoreNow) -> Tree:
    """With all its messages, parents before their children."""
    return store.conversations.tree(caller.account, conversation)


@router.patch("/{conversation}")
def rename_conversation(
    conversation: ConversationId, body: NewTitle, caller: CallerNow, store: StoreNow
) -> Conversation:
    """A new title."""
    return store.conversations.rename(caller.account, conversation, body.title)


@router.delete("/{conversation}", status_code=204)
def delete_conversation(conversation: ConversationId, caller: CallerNow, store: StoreNow) -> None:
    """It can be restored for 30 days, then it is gone."""
    store.conversations.delete(caller.account, conversation)


@router.post("/{conversation}/restore")
def restore_conversation(conversation: ConversationId, caller: CallerNow, store: StoreNow) -> Conversation:
    """A deleted one comes back."""
    return store.conversations.restore(caller.account, conversation)


@router.post("/{conversation}/messages", status_code=201)
def add_message(conversation: ConversationId, body: NewMessage, caller: CallerNow, store: StoreNow) -> Message:
    """Something said, at the end of a branch or as a new one."""
    return store.conversations.add_message(
        caller.account, conversation, body.parent, body.role, body.content, body.tool_call_id
    )


@router.get("/{conversation}/export")
def export_conversation(conversation: ConversationId, caller: CallerNow, store: StoreNow) -> Document:
    """The whole tree, as `import` takes it."""
    tree = store.conversations.tree(caller.account, conversation)
    nodes = [
        Node(**{name: value for name, value in asdict(m).items() if name in Node.model_fields}) for m in tree.messages
    ]
    return Document(title=tree.conversation.title, messages=nodes)


@router.get("/{conversation}/export.md", response_class=PlainTextResponse)
def export_branch(
    conversation: ConversationId, message: Annotated[str, Query(pattern=ID)], caller: CallerNow, store: StoreNow
) -> PlainTextResponse:
    """Markdown of the branch that ends with `message`."""
    found = store.conversations.get(caller.account, conversation)
    text = to_markdown(found, store.conversations.path(caller.account, message))
    return PlainTextResponse(text, media_type="text/markdown")

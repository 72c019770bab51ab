"""The routes that make replies in conversations, follow them, and stop them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field, model_validator
from starlette.responses import StreamingResponse

from millet.reasoning.assistant import Options
from millet.serve.attachments import Files, stored, template_of, with_files
from millet.serve.caller import Caller
from millet.serve.chat import ChatRequest
from millet.serve.dependencies import get_caller, get_store
from millet.serve.errors import ApiError
from millet.serve.live import LiveReplies, LiveReply
from millet.serve.routes.replies import get_service
from millet.serve.service import PromptCount, Service
from millet.serve.sse import to_json
from millet.serve.store import Message, Store
from millet.serve.store.conversations import check_can_go_on
from millet.serve.store.records import ID
from millet.serve.turns import call_of
from millet.serve.validation import Body

router = APIRouter(prefix="/api", tags=["conversations"])

WhoAsks = Annotated[Caller, Depends(get_caller)]
Kept = Annotated[Store, Depends(get_store)]


class PromptOptions(Body):
    """think: "off", "auto", "on", or the most tokens of a thought. system: instructions that stand before the
    conversation."""

    think: Literal["off", "auto", "on"] | Annotated[int, Field(ge=0)] | None = None
    system: str | None = None

    @property
    def options(self) -> Options:
        return cast(Options, self.model_dump(include=set(Options.__annotations__), exclude_none=True))


class ReplyOptions(PromptOptions):
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None


class NewReply(ReplyOptions):
    """content: what the person says, a new message after `parent` (null begins the conversation); left out, `parent`
    itself, a person's message, is answered, which makes another version of its reply. attachments: files that come with
    the content."""

    content: Annotated[str, Field(min_length=1)] | None = None
    attachments: Files = Field(default_factory=list)
    parent: Annotated[str, Field(pattern=ID)] | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _come_with_content(self) -> NewReply:
        if self.attachments and self.content is None:
            raise ValueError("should have attachments with content alone")
        return self


class Draft(PromptOptions):
    """What a person is about to say after `parent`."""

    content: str
    attachments: Files = Field(default_factory=list)
    conversation: Annotated[str, Field(pattern=ID)] | None = None
    parent: Annotated[str, Field(pattern=ID)] | None = None
    model: str | None = None


def get_live(request: Request) -> LiveReplies:
    live: LiveReplies = request.app.state.live
    return live


Live = Annotated[LiveReplies, Depends(get_live)]


@router.post("/conversations/{conversation}/replies")
async def create_reply(
    conversation: Annotated[str, Path(pattern=ID)],
    body: NewReply,
    request: Request,
    caller: WhoAsks,
    store: Kept,
    live: Live,
    service: Annotated[Service, Depends(get_service)],
) -> StreamingResponse:
    """Say something and have it answered, or have it answered again. The stream begins with the messages' ids; the
    reply goes on, and is kept, when the client goes away."""
    branch = await _branch(store, caller.account, conversation, body)
    answer = await service.open(caller, _request(service, body.model, branch, body, asked=body))
    try:
        asked, message = await to_thread.run_sync(_begin, store, caller.account, conversation, body, answer.model)
    except BaseException:
        answer.close()
        raise
    request.state.answer = answer
    reply = live.start(message, caller.account, answer)
    return _stream(reply, reply.watch(), asked)


@router.post("/replies/{message}/continue")
async def continue_reply(
    message: Annotated[str, Path(pattern=ID)],
    body: ReplyOptions,
    request: Request,
    caller: WhoAsks,
    store: Kept,
    live: Live,
    service: Annotated[Service, Depends(get_service)],
) -> StreamingResponse:
    """Let a reply that was stopped, interrupted or cut off, or that failed, go on from where it was. The stream begins
    with what there is of it."""
    branch = await to_thread.run_sync(store.conversations.path, caller.account, message)
    begun = branch[-1]
    check_can_go_on(begun)
    live.check_ended(message)
    answer = await service.open(caller, _request(service, begun.model, branch[:-1], body, begun=begun))
    try:
        resumed = await to_thread.run_sync(store.resume_reply, caller.account, begun)
    except BaseException:
        answer.close()
        raise
    request.state.answer = answer
    reply = live.start(resumed, caller.account, answer)
    return _stream(reply, reply.watch())


@router.post("/count")
async def count_draft(
    body: Draft, caller: WhoAsks, store: Kept, service: Annotated[Service, Depends(get_service)]
) -> PromptCount:
    """How long the prompt would be, and whether a reply could follow."""
    branch = await _path(store, caller.account, body.conversation, body.parent)
    return await service.measure(caller, _request(service, body.model, branch, body, asked=body))


@router.get("/replies/{message}/events")
async def follow_reply(
    message: str, caller: WhoAsks, live: Live, after: Annotated[int, Query(ge=0)] = 0
) -> StreamingResponse:
    """The rest of a reply under way, behind the event of that number; 404 when it ended a while ago, 429 when the
    account follows too many."""
    reply = live.get(caller.account, message)
    live.check_watchers(caller.account)
    return _stream(reply, live.follow(reply, after))


@router.post("/replies/{message}/stop", status_code=204)
async def stop_reply(message: str, caller: WhoAsks, live: Live) -> None:
    """End a reply with what there is of it."""
    live.get(caller.account, message).stop()


async def _branch(store: Store, account: str, conversation: str, body: NewReply) -> Sequence[Message]:
    """The messages before the reply, those that are stored."""
    branch = await _path(store, account, conversation, body.parent)
    if body.content is None and (not branch or branch[-1].role not in ("user", "tool")):
        raise ApiError(422, "give content, or as parent a person's message that is to be answered", param="content")
    return branch


async def _path(store: Store, account: str, conversation: str | None, parent: str | None) -> Sequence[Message]:
    """The branch that ends with `parent`. Raises ApiError 404, also where that is in another conversation."""
    if parent is not None:
        branch = await to_thread.run_sync(store.conversations.path, account, parent)
        if conversation not in (None, branch[-1].conversation):
            raise ApiError(404, "there is no such message in this conversation; load it again", param="parent")
        return branch
    if conversation is not None:
        await to_thread.run_sync(store.conversations.get, account, conversation)
    return ()


def _request(
    service: Service,
    model: str | None,
    branch: Sequence[Message],
    wanted: PromptOptions,
    *,
    asked: NewReply | Draft | None = None,
    begun: Message | None = None,
) -> ChatRequest:
    """asked: its content stands behind the branch. begun: the reply is to go on from there. Raises ApiError 404."""
    model = model or next(iter(service.backends))
    template = template_of(service.resolve(model)[0])
    messages: list[dict[str, Any]] = [{"role": "system", "content": wanted.system}] if wanted.system else []
    messages += [_shown(message, template) for message in branch]
    if asked is not None and asked.content is not None:
        content = with_files(template, asked.content, stored(asked.attachments))
        messages.append({"role": "user", "content": content})
    if begun is not None and (begun.reasoning or begun.content):
        beginning = {"content": begun.content, "reasoning_content": begun.reasoning}
        messages.append({"role": "assistant", "prefix": True, **beginning})
    return ChatRequest(model, tuple(messages), wanted.options)


def _shown(message: Message, template: str) -> dict[str, Any]:
    """As the model sees it."""
    content = with_files(template, message.content, message.attachments)
    shown: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        shown["tool_calls"] = [call_of(call.id, call.name, call.arguments) for call in message.tool_calls]
    if message.tool_call_id:
        shown["tool_call_id"] = message.tool_call_id
    return shown


def _begin(store: Store, account: str, conversation: str, body: NewReply, model: str) -> tuple[Message | None, Message]:
    asked = None
    if body.content is not None:
        asked = store.conversations.add_message(
            account, conversation, body.parent, "user", body.content, attachments=stored(body.attachments)
        )
    parent = asked.id if asked is not None else body.parent
    assert parent is not None
    return asked, store.conversations.begin_reply(account, parent, model)


def _stream(reply: LiveReply, texts: AsyncGenerator[str, None], asked: Message | None = None) -> StreamingResponse:
    async def events() -> AsyncGenerator[str, None]:
        begin: dict[str, Any] = {"kind": "begin", "message": reply.message.id, "model": reply.message.model}
        begin["thought_seconds"] = round(reply.thought_seconds, 3)
        if asked is not None:
            begin["question"] = asked.id
        yield f"data: {to_json(begin)}\n\n"
        async with aclosing(texts):
            async for text in texts:
                yield text

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

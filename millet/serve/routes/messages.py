"""The routes that Anthropic's clients call."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from millet.serve.anthropic import CountTokensBody, MessagesBody
from millet.serve.anthropic_wire import MessagesWire
from millet.serve.caller import Caller
from millet.serve.dependencies import get_caller
from millet.serve.routes.replies import get_service, respond
from millet.serve.service import Service

router = APIRouter(tags=["Anthropic"])

WhoAsks = Annotated[Caller, Depends(get_caller)]
Serving = Annotated[Service, Depends(get_service)]


@router.post("/v1/messages")
async def messages(body: MessagesBody, request: Request, caller: WhoAsks, service: Serving) -> Response:
    """A reply to a conversation, whole or, with `stream`, as it comes."""
    answer = await service.open(caller, body.to_chat())
    wire = MessagesWire(body.model, answer.prepared.prompt_tokens)
    return respond(request, answer, wire, stream=bool(body.stream))


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountTokensBody, caller: WhoAsks, service: Serving) -> dict[str, Any]:
    """How many tokens the prompt of such a request has."""
    return {"input_tokens": await service.count_tokens(caller, body.to_chat())}

"""The route that clients of OpenAI's Responses call."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from millet.serve.caller import Caller
from millet.serve.dependencies import get_caller
from millet.serve.responses import ResponsesBody
from millet.serve.responses_wire import ResponsesWire
from millet.serve.routes.replies import get_service, respond
from millet.serve.service import Service

router = APIRouter(tags=["OpenAI and DeepSeek"])


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def create_response(
    body: ResponsesBody,
    request: Request,
    caller: Annotated[Caller, Depends(get_caller)],
    service: Annotated[Service, Depends(get_service)],
) -> Response:
    """A reply as items: reasoning, message, function calls; whole or, with `stream`, as they come."""
    answer = await service.open(caller, body.to_chat())
    return respond(request, answer, ResponsesWire(body), stream=bool(body.stream))

"""What the routes of all wire formats have in common."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from millet.serve.reply_response import ReplyResponse
from millet.serve.service import Answer, Service
from millet.serve.wire import Wire


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def respond(request: Request, answer: Answer, wire: Wire, *, stream: bool) -> Response:
    """The answer on its way to the client."""
    request.state.answer = answer
    silence = request.app.state.config.keep_alive
    return ReplyResponse(answer, wire, stream=stream, silence=silence)

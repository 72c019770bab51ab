"""The routes that OpenAI's and DeepSeek's clients call."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from millet.serve.accounts import Accounts
from millet.serve.caller import Caller
from millet.serve.completions import CompletionBody, CompletionWire
from millet.serve.dependencies import get_caller
from millet.serve.openai_chat import ChatBody, SamplingBody
from millet.serve.openai_wire import ChatWire
from millet.serve.routes.replies import get_service, respond
from millet.serve.service import Service

router = APIRouter(tags=["OpenAI and DeepSeek"])

WhoAsks = Annotated[Caller, Depends(get_caller)]
Serving = Annotated[Service, Depends(get_service)]


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
@router.post("/beta/chat/completions", include_in_schema=False)
async def chat_completions(body: ChatBody, request: Request, caller: WhoAsks, service: Serving) -> Response:
    """A reply to a conversation, whole or, with `stream`, as it comes."""
    answer = await service.open(caller, body.to_chat())
    wire = ChatWire(
        body.model,
        samples=body.n or 1,
        include_usage=_include_usage(body),
        token_bytes=answer.prepared.token_bytes,
    )
    return respond(request, answer, wire, stream=bool(body.stream))


@router.post("/v1/completions")
@router.post("/completions", include_in_schema=False)
@router.post("/beta/completions", include_in_schema=False)
async def completions(body: CompletionBody, request: Request, caller: WhoAsks, service: Serving) -> Response:
    """A prompt continued, or with `suffix` the gap between both filled, where the model has learned that."""
    answer = await service.open(caller, body.to_chat())
    wire = CompletionWire(
        body.model,
        samples=body.n or 1,
        include_usage=_include_usage(body),
        echo=body.text if body.echo else "",
        token_bytes=answer.prepared.token_bytes,
    )
    return respond(request, answer, wire, stream=bool(body.stream))


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(caller: WhoAsks, service: Serving) -> dict[str, Any]:
    """Every name that `model` may be: each model, and its names with and without reasoning."""
    return {"object": "list", "data": [_model(name) for name in service.model_names]}


@router.get("/v1/models/{model:path}")
@router.get("/models/{model:path}", include_in_schema=False)
async def model(model: str, caller: WhoAsks, service: Serving) -> dict[str, Any]:
    """One model, if it is served here."""
    service.resolve(model)
    return _model(model)


@router.get("/user/balance")
async def balance(request: Request, caller: WhoAsks) -> dict[str, Any]:
    """What the account has left, in DeepSeek's form; no entry where nothing is charged."""
    accounts: Accounts | None = request.app.state.accounts
    left = None if accounts is None else await to_thread.run_sync(accounts.balance, caller.account)
    if left is None:
        return {"is_available": True, "balance_infos": []}
    currency = request.app.state.config.prices.currency
    amounts = {"total_balance": f"{left:.2f}", "granted_balance": f"{left:.2f}", "topped_up_balance": "0.00"}
    return {"is_available": left > 0, "balance_infos": [{"currency": currency, **amounts}]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "millet"}


def _include_usage(body: SamplingBody) -> bool:
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)

"""The application: its parts put together, its routes, and how its failures are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millet import __version__
from millet.errors import MilletError
from millet.serve.chat import Backend
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError, ErrorReply, as_api_error
from millet.serve.guard import Guard
from millet.serve.logs import RequestLog
from millet.serve.metrics import Metrics
from millet.serve.parts import open_parts
from millet.serve.refusals import refusal
from millet.serve.routes import (
    accounts,
    admin,
    changes,
    conversations,
    health,
    live,
    messages,
    models,
    openai,
    page,
    responses,
)
from millet.serve.store import Store
from millet.serve.validation import first_problem

UNREADABLE = "the body is not JSON that can be read; check its syntax and its nesting"
# The page's files come last: they take what the others left.
ROUTERS = (openai, messages, responses, models, changes, live, conversations, accounts, admin, health, page)


def create_app(config: ServeConfig, backends: Mapping[str, Backend], store: Store) -> FastAPI:
    """backends: by model name, the default first; they load when the app starts, and are closed with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            open_parts(app.state, config, backends, store, stack)
            yield

    app = FastAPI(
        title="Millet",
        version=__version__,
        summary="A reasoning model's API, in the forms of OpenAI, DeepSeek and Anthropic",
        docs_url=None,  # it would fetch its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}},
        # Only for the document: an API key as a bearer token. `get_caller` decides.
        dependencies=[Depends(HTTPBearer(auto_error=False))],
    )
    for module in ROUTERS:
        app.include_router(module.router)
    metrics = Metrics(
        set(backends), {route.path for module in ROUTERS for route in module.router.routes if isinstance(route, Route)}
    )
    log = RequestLog(set(backends))
    app.state.config, app.state.metrics, app.state.log = config, metrics, log
    app.state.on_failure = None
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(MilletError, _refused)
    app.add_middleware(
        Guard,
        metrics=metrics,
        log=log,
        max_body=config.max_body,
        body_timeout=config.body_timeout,
        only_local=not config.users,
    )
    return app


def _tell(request: Request, error: ApiError) -> Response:
    request.state.refusal = error
    status, body = refusal(request.scope, error)
    return JSONResponse(body, status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "")
    if request.method in ("POST", "PUT", "PATCH") and "json" not in kind:
        return _tell(request, ApiError(400, "send JSON, with the header Content-Type: application/json"))
    if any(problem["type"] == "json_invalid" for problem in error.errors()):
        return _tell(request, ApiError(400, UNREADABLE))
    return _tell(request, first_problem(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {
        400: UNREADABLE,
        404: "nothing is at this path; GET /openapi.json lists what there is",
        405: "this path does not know this method; GET /openapi.json lists what there is",
    }
    return _tell(request, ApiError(error.status_code, texts.get(error.status_code, str(error.detail))))


async def _refused(request: Request, error: Exception) -> Response:
    return _tell(request, as_api_error(error))

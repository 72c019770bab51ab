"""What stands before every request: its body in bounds of size and time, an id, a line in the log, safe headers."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millet.serve.errors import ApiError, as_api_error
from millet.serve.logs import RequestLog
from millet.serve.metrics import Metrics, refusal_cause
from millet.serve.origin import check_origin
from millet.serve.refusals import refusal
from millet.serve.service import Answer

HELD = 256 * 1024 * 1024  # bytes of bodies that are still on their way, of all connections together

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'"
)
"""Of the web app: nothing from elsewhere, nothing inline."""

SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"content-security-policy", API_POLICY.encode()),
)


class Guard:
    """ASGI middleware. The whole body is read before the application sees the request, so that a slow or an oversized
    one costs nothing but its own connection. max_body: bytes; body_timeout: seconds for all of it. only_local: refuse
    what does not come from this machine's own programs and pages."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        log: RequestLog,
        max_body: int,
        body_timeout: float,
        only_local: bool,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._only_local = only_local
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500
        answered = False

        async def send_safely(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                ids = [
                    (name, request_id.encode()) for name in (b"x-request-id", b"request-id")
                ]  # OpenAI's, Anthropic's
                headers = [*message.get("headers", ()), *ids]
                present = {name.lower() for name, _ in headers}
                message["headers"] = headers + [pair for pair in SAFE if pair[0] not in present]
            await send(message)

        try:
            if self._only_local:
                check_origin(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _again(body, receive), send_safely)
        except ApiError as error:
            scope["state"]["refusal"] = error
            await refuse(scope, send_safely, error)
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:  # a bug
            self._log.log_exception(error, request_id=request_id)
            if answered:
                raise  # the server closes the connection, so that the client knows
            scope["state"]["refusal"] = as_api_error(error)
            await refuse(scope, send_safely, as_api_error(error))
        finally:
            self._tell(scope, status, (time.perf_counter() - began) * 1000)

    def _tell(self, scope: Scope, status: int, milliseconds: float) -> None:
        """Count and log an answer that has ended."""
        state = scope["state"]
        answer: Answer | None = state.get("answer")
        refusal: ApiError | None = state.get("refusal")
        route = getattr(scope.get("route"), "path", None)
        self._metrics.request(route, status)
        if refusal is not None:
            self._metrics.refused(refusal)
        self._log.log_request(
            request_id=state["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=milliseconds,
            account=answer.caller.account if answer else None,
            model=answer.model if answer else None,
            usage=answer.usage if answer else None,
            finish_reason=answer.finish_reason if answer else None,
            refusal=refusal_cause(refusal) if refusal else None,
        )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the connection ended before the request did")
                    body += message.get("body", b"")
                    self._held += len(message.get("body", b""))
                    more = message.get("more_body", False)
                    if len(body) > self._max_body:
                        raise self._too_large()
                    if self._held > HELD and more:
                        raise ApiError(503, "too much is being sent to the server at once; try again", retry_after=5)
        except TimeoutError:
            raise ApiError(
                408,
                f"the request did not arrive within {self._body_timeout:g} s; send it again",
                code="request_timeout",
            ) from None
        finally:
            self._held -= len(body)
        return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request is larger than {self._max_body} bytes; send less", code="request_too_large")


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what the connection has to say."""
    told = False

    async def receive_body() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


async def refuse(scope: Scope, send: Send, error: ApiError) -> None:
    """Answer with an error. The connection is closed, since the rest of the body may still be on its way."""
    status, told = refusal(scope, error)
    body = json.dumps(told).encode()
    headers: Iterable[tuple[str, str]] = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers,
    }.items()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
    )
    await send({"type": "http.response.body", "body": body})

"""The HTTP server: where it may listen, for how long it waits for a request's head, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millet.errors import MilletError
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError

HEAD_TIMEOUT = 20.0  # seconds from connecting, or from the last reply, until a request's head must be there
CONNECTIONS = 4096  # at once; more are told 503 by the server
GRACE = 5  # seconds that replies under way have to end when the server is stopped

HEAD_SIZE = 64 * 1024  # bytes of a request's head
LATE = ApiError(408, "the request did not arrive in time; send it again", code="request_timeout")
LARGE = ApiError(431, f"the head of the request is larger than {HEAD_SIZE} bytes; send fewer or shorter headers")


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on a request's head, in time and in size: else a connection that sends half a head
    keeps its place for ever, and one that sends headers without end fills the memory."""

    _deadline: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes of the head so far; None while there is none to come

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._refuse, LATE)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_SIZE:
            self._refuse(LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head is None:  # the next request on a connection that was kept
            self._head = 0
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._refuse, LATE)

    def on_headers_complete(self) -> None:
        self._head = None
        self._forget_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _refuse(self, error: ApiError) -> None:
        if not self.transport.is_closing():
            body = json.dumps(error.body)
            self.transport.write(
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
            )
            self.transport.close()


def check_address(config: ServeConfig) -> None:
    """Raises MilletError where strangers could come in without an account."""
    if not config.users and not is_loopback(config.host):
        raise MilletError(
            f"{config.host} can be reached by others, and without accounts everyone who reaches it may use it; "
            "add --users, or listen on 127.0.0.1 (the default)"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(config: ServeConfig) -> socket.socket:
    """The socket, bound now so that a taken port is found before a model is loaded. Raises MilletError."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise MilletError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror or error}); choose another --port or --host"
        ) from error
    return listener


class Server(uvicorn.Server):
    """The server of one app; `run(sockets=[...])` or `await serve(sockets=[...])`. on_open: called when it listens."""

    def __init__(self, app: FastAPI, config: ServeConfig, on_open: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._on_open = on_open
        super().__init__(
            uvicorn.Config(
                app,
                http=PatientProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                backlog=1024,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=GRACE,
                proxy_headers=bool(config.trusted_proxies),
                forwarded_allow_ips=list(config.trusted_proxies) or None,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.service.close()  # else uvicorn would wait for replies, and then cut them off
        await super().shutdown(sockets)

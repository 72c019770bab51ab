"""An application with the routes of people and conversations alone, and clients of it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse, Response

from millet.serve.accounts import Accounts
from millet.serve.config import ServeConfig
from millet.serve.errors import ApiError
from millet.serve.routes import accounts, admin, changes, conversations
from millet.serve.store import Store

PASSWORD = "correct horse"


def small_app(store: Store, people: Accounts | None) -> FastAPI:
    """people: None for one-person mode."""
    app = FastAPI()
    app.state.config = ServeConfig()
    app.state.store = store
    app.state.accounts = people
    app.include_router(accounts.router)
    app.include_router(admin.router)
    app.include_router(changes.router)
    app.include_router(conversations.router)

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body, error.status, error.headers)

    app.add_exception_handler(ApiError, refused)
    return app


class Browser(TestClient):
    """Keeps its cookies, and sends the CSRF token once it has one."""

    def accept(self, token: str, name: str | None) -> dict[str, Any]:
        """Open an invitation's link."""
        answer = self.post("/api/invitations/accept", json={"token": token, "name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        self.headers["X-CSRF-Token"] = answer.json()["csrf"]
        me: dict[str, Any] = answer.json()
        return me

    def sign_in(self, name: str, password: str = PASSWORD) -> int:
        """The status; only with 200 one is in."""
        answer = self.post("/api/login", json={"name": name, "password": password})
        if answer.status_code == 200:
            self.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return answer.status_code

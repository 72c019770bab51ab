"""The plain pages: how to use the API, and one's account."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

FILES = Path(__file__).parents[1]


@router.get("/")
async def page(request: Request) -> Response:
    state = request.app.state
    users = state.config.users
    values = {
        "base": str(request.base_url).rstrip("/"),
        "key": "one that you make on your account's page" if users else "none is needed; send any",
        "example_key": "mk-..." if users else "none",
        "models": ", ".join(state.service.model_names),
        "model": next(iter(state.service.backends)),
        "state": await state.service.ready() or "ready",
    }
    text = _read("page.html")
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", escape(value))
    text = text.replace("{account}", '<a href="/account">Your account</a>: keys and usage. ' if users else "")
    return HTMLResponse(text)


@router.get("/account")
async def account() -> Response:
    return HTMLResponse(_read("account.html"))


@router.get("/account.js")
async def script() -> Response:
    return Response(_read("account.js"), media_type="text/javascript")


@router.get("/page.css")
async def style() -> Response:
    return Response(_read("page.css"), media_type="text/css")


def _read(name: str) -> str:
    return (FILES / name).read_text("utf-8")

"""The plain page that says how to use the API."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

PAGE = Path(__file__).parents[1] / "page.html"


@router.get("/")
async def page(request: Request) -> Response:
    state = request.app.state
    users = state.config.users
    values = {
        "base": str(request.base_url).rstrip("/"),
        "key": "one that your account made" if users else "none is needed; send any",
        "example_key": "mk-..." if users else "none",
        "models": ", ".join(state.service.model_names),
        "model": next(iter(state.service.backends)),
        "state": await state.service.ready() or "ready",
    }
    text = PAGE.read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", escape(value))
    return HTMLResponse(text)


@router.get("/page.css")
async def style() -> Response:
    return Response(PAGE.with_suffix(".css").read_text("utf-8"), media_type="text/css")

"""A refusal as the clients of a path expect it: Anthropic's have a shape and a status or two of their own."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from millet.serve import anthropic
from millet.serve.errors import ApiError


def refusal(scope: Scope, error: ApiError) -> tuple[int, dict[str, Any]]:
    """Its status and its body."""
    if scope["path"].startswith("/v1/messages"):
        return anthropic.error_status(error), anthropic.error_body(error, scope["state"]["request_id"])
    return error.status, error.body

"""What a client is told when a request cannot be answered: one shape for all, and the status that DeepSeek documents.

    400 malformed request or impossible values      401 no such key            402 the account's money is used up
    403 the account may not do this                 404 no such model or path  413 the body or the prompt is too large
    422 well-formed, but a parameter is invalid     429 a limit of this key    500 a bug in Millet
    503 everyone's queue is full, or the engine or upstream is not there

https://api-docs.deepseek.com/quick_start/error_codes
"""

from __future__ import annotations

from math import ceil
from typing import Any

from pydantic import BaseModel

from millet.errors import BadRequest, MilletError, OutOfMemory, PromptTooLong, UnknownModel, UnsupportedModel

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_balance",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """A refusal as OpenAI and DeepSeek write it; Anthropic's routes have Anthropic's form."""

    error: ErrorDetail


class ApiError(MilletError):
    """A refusal with its HTTP status.

    param: the request's field that it is about. code: one word for programs. retry_after: seconds to wait before it is
    worth trying again; sent with 429 and 503.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI and DeepSeek write it."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(1, ceil(self.retry_after)))}


def as_api_error(error: BaseException) -> ApiError:
    """Any failure as what the client hears. What is not Millet's own error is a bug, of which it hears nothing more."""
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            return ApiError(400, str(error), param="messages", code="context_length_exceeded")
        case UnknownModel():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case BadRequest() | UnsupportedModel():
            return ApiError(422, str(error))
        case OutOfMemory():
            return ApiError(503, str(error), code="insufficient_system_resource", retry_after=30)
        case _:
            return ApiError(500, "something went wrong in the server; its log has the details", code="internal_error")

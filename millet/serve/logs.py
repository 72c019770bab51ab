"""What the server writes about requests: one JSON object a line, or a readable line in a terminal.

Neither prompts nor replies, query strings, headers, nor anything else that a client wrote: names that it could have
made up are replaced by "other", and of an exception only its type and where it happened is kept, since its message may
quote the request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Container
from datetime import UTC, datetime
from typing import Any, TextIO

from millet.reasoning.reply import Usage

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
FINISHES = frozenset(("stop", "length", "tool_calls", "loop", "cancelled", "insufficient_system_resource"))
OTHER = "other"
SPEAKS_OF_ITSELF = ("millet", "uvicorn.error")  # loggers whose messages quote no request

logger = logging.getLogger("millet.serve")


def configure(stream: TextIO | None = None, *, readable: bool | None = None) -> None:
    """Send all logs of the process to the stream, by default standard error; readable: for a person, by default where
    the stream is a terminal. uvicorn's own access log, which has query strings, is silenced."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ReadableLines() if (stream.isatty() if readable is None else readable) else JsonLines())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("millet").setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        quiet = logging.getLogger(name)
        quiet.handlers.clear()
        quiet.propagate = name != "uvicorn.access"
        quiet.disabled = name == "uvicorn.access"
    logging.getLogger("uvicorn").setLevel(logging.INFO)


class RequestLog:
    """models: the names that may be written (a live view is fine)."""

    def __init__(self, models: Container[str]) -> None:
        self._models = models

    def log_request(
        self,
        *,
        request_id: str,
        method: str,
        route: str | None,
        status: int,
        milliseconds: float,
        account: str | None = None,
        model: str | None = None,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        refusal: str | None = None,
    ) -> None:
        """An answer has ended. request_id: made by the server. route: the template, such as /v1/models/{name}, never
        the path; None where no route matched. account: its id, written as a hash. refusal: from `refusal_cause`."""
        known_model = model if model is None or model in self._models else OTHER
        fields: dict[str, Any] = {
            "request_id": request_id,
            "method": method if method in METHODS else OTHER,
            "route": route,
            "status": status,
            "milliseconds": round(milliseconds, 1),
            "account": account and account_hash(account),
            "model": known_model,
            **(_tokens(usage) if usage else {}),
            "finish_reason": finish_reason if finish_reason is None or finish_reason in FINISHES else OTHER,
            "refusal": refusal,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        logger.log(level, "request", extra={"fields": present})

    def log_exception(self, error: BaseException, *, request_id: str) -> None:
        """A bug, met while this request was answered."""
        logger.error("exception", extra={"fields": {"request_id": request_id, "exception": _describe(error)}})


def account_hash(account: str) -> str:
    """The same account has the same hash, in this and every other process."""
    return hashlib.sha256(account.encode()).hexdigest()[:12]


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def _describe(error: BaseException) -> list[dict[str, Any]]:
    """The exception and those it came from or holds, without their messages and without source lines."""
    described: list[dict[str, Any]] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        frames = traceback.walk_tb(current.__traceback__)
        where = [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in frames]
        described.append({"type": type(current).__name__, "frames": where})
        waiting.append(current.__cause__ or (None if current.__suppress_context__ else current.__context__))
        waiting += current.exceptions if isinstance(current, BaseExceptionGroup) else ()
    return described


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time_, "level": record.levelname.lower(), **_content(record)}, ensure_ascii=False)


class ReadableLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = _content(record)
        chain = content.pop("exception", ())
        words = [time.strftime("%H:%M:%S", time.localtime(record.created))]
        if record.levelno >= logging.WARNING:
            words.append(record.levelname.lower())
        if content["event"] == "request":
            words += [f"{content[k]}" for k in ("method", "route", "status") if k in content]
            words.append(f"{content['milliseconds']:.0f} ms")
            shown = {"event", "method", "route", "status", "milliseconds"}
        else:
            words.append(content["event"])
            shown = {"event"}
        words += [f"{name}={value}" for name, value in content.items() if name not in shown]
        lines = [" ".join(words)]
        for one in chain:
            lines += [f"  {one['type']}", *(f"    {frame}" for frame in one["frames"])]
        return "\n".join(lines)


def _content(record: logging.LogRecord) -> dict[str, Any]:
    """The record's fields, by name. Of others' loggers only where they spoke is kept: asyncio, for one, quotes the
    exceptions that nobody caught."""
    if record.name.startswith(SPEAKS_OF_ITSELF):
        content: dict[str, Any] = {"event": record.getMessage().strip()}
    else:
        content = {"event": f"a message of {record.name}, left out", "where": f"{record.pathname}:{record.lineno}"}
    content.update(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        content["exception"] = _describe(record.exc_info[1])
    return content

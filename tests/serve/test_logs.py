"""Logs say what happened and never what was said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from millet.reasoning.reply import Usage
from millet.serve import logs
from millet.serve.errors import ApiError, as_api_error
from millet.serve.logs import RequestLog
from millet.serve.metrics import refusal_cause

MARKER = "zebra-3141592"
NAMES = ("", "millet", "uvicorn", "uvicorn.error", "uvicorn.access")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Other tests keep their logging."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one.handlers[:], one.level, one.propagate, one.disabled) for one in loggers]
    yield
    for one, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        one.handlers, one.propagate, one.disabled = handlers, propagate, disabled
        one.setLevel(level)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(stream)
    return stream


@pytest.fixture
def log() -> RequestLog:
    return RequestLog({"tiny"})


def test_one_json_object_a_line(stream: io.StringIO, log: RequestLog) -> None:
    log.log_request(
        request_id="r1",
        method="POST",
        route="/v1/chat/completions",
        status=200,
        milliseconds=153.26,
        account="account-1",
        model="tiny",
        usage=Usage(10, 20, 5, 4),
        finish_reason="stop",
    )
    log.log_request(request_id="r2", method="GET", route=None, status=404, milliseconds=1, refusal="bad_request")
    first, second = written(stream)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "event": "request",
        "request_id": "r1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "milliseconds": 153.3,
        "account": logs.account_hash("account-1"),
        "model": "tiny",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "reasoning_tokens": 5,
        "cached_tokens": 4,
        "finish_reason": "stop",
    }
    assert "account-1" not in stream.getvalue()
    assert second["refusal"] == "bad_request"
    assert not {"route", "model", "account"} & second.keys()


def test_an_exception_is_its_types_and_places(stream: io.StringIO, log: RequestLog) -> None:
    try:
        try:
            raise KeyError(MARKER)
        except KeyError as error:
            raise ValueError(f"bad value {MARKER}") from error
    except ValueError as error:
        log.log_exception(error, request_id="r1")
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    for line in written(stream):
        assert [one["type"] for one in line["exception"]] == ["ValueError", "KeyError"]
        assert line["exception"][0]["frames"][0].endswith(" test_an_exception_is_its_types_and_places")
    log.log_exception(ExceptionGroup(MARKER, [KeyError(MARKER), OSError(MARKER)]), request_id="r2")
    assert [one["type"] for one in written(stream)[-1]["exception"]] == ["ExceptionGroup", "KeyError", "OSError"]
    assert MARKER not in stream.getvalue()


@pytest.mark.parametrize("readable", [False, True])
def test_nothing_a_client_wrote_is_written(log: RequestLog, readable: bool) -> None:
    """The marker is in everything that a client can choose: prompt, reply, headers, query, model, method, errors."""
    stream = io.StringIO()
    logs.configure(stream, readable=readable)
    error = ApiError(422, f"messages: {MARKER} is not a role", param=MARKER, code=MARKER)
    log.log_request(
        request_id="r1",
        method=MARKER,
        route="/v1/models/{name}",
        status=error.status,
        milliseconds=1.0,
        account=MARKER,
        model=MARKER,
        finish_reason=MARKER,
        refusal=refusal_cause(error),
    )
    chained = RuntimeError(f"reply {MARKER}")
    chained.__cause__ = error
    log.log_exception(chained, request_id="r1")
    log.log_exception(as_api_error(ValueError(MARKER)), request_id="r1")
    logging.getLogger("uvicorn.access").info('%s - "%s %s"', "127.0.0.1", "GET", f"/?q={MARKER}")
    logging.getLogger("somebody.else").warning("header %s", MARKER)
    logging.getLogger("somebody.else").error(MARKER, exc_info=chained)

    async def uncaught() -> None:
        async def fails() -> None:
            raise ValueError(MARKER)

        task = asyncio.ensure_future(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    asyncio.run(uncaught())
    text = stream.getvalue()
    assert "a message of asyncio, left out" in text
    assert "r1" in text
    assert MARKER not in text


def test_readable_in_a_terminal(log: RequestLog) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure(terminal)
    log.log_request(
        request_id="r1",
        method="POST",
        route="/v1/completions",
        status=500,
        milliseconds=12.4,
        model="tiny",
        usage=Usage(3, 4),
        finish_reason="length",
    )
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    first, second = terminal.getvalue().splitlines()
    assert first[8:].startswith(" error POST /v1/completions 500 12 ms request_id=r1 model=tiny prompt_tokens=3 ")
    assert first.endswith("finish_reason=length")
    assert second[8:] == " Started server process [7]"

"""A reply as an HTTP response: a stream or one JSON object, with signs of life while it takes its time.

Admission has been decided before the first byte, so whatever is refused has its own status code. The response listens
for the client all the time: when it goes away, the reply is cancelled at once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from millet.reasoning.reply import Event, Reply
from millet.serve.errors import ApiError, as_api_error
from millet.serve.refusals import refusal
from millet.serve.service import Answer
from millet.serve.wire import Wire, merged

STALLED = 120.0  # seconds for which a client may take nothing; then what was kept for it is given up


class ReplyResponse(Response):
    """silence: seconds without a byte after which a sign of life is sent."""

    def __init__(
        self,
        answer: Answer,
        wire: Wire,
        *,
        stream: bool,
        silence: float,
    ) -> None:
        super().__init__(media_type="text/event-stream" if stream else "application/json")
        self.answer = answer
        self._wire = wire
        self._stream = stream
        self._silence = silence
        self._started = False
        self._scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write = self._write_stream if self._stream else self._write_whole
        self._scope = scope
        writer = asyncio.create_task(write(send))
        listener = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writer, listener}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (listener, writer):
                task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await writer
            with suppress(asyncio.CancelledError):
                await listener
            self.answer.close()

    async def _write_stream(self, send: Send) -> None:
        """Whoever waits is told so at once. Else the first byte goes with the first event, so that a reply which breaks
        before that has its own status, as an upstream that refuses it."""
        if self.answer.position:
            await self._start(send)
        wire, beginning = self._wire, ""
        try:
            async with aclosing(self.answer.batches(self._silence)) as batches:
                async for batch in batches:
                    if batch == []:
                        beginning = wire.begin()
                        continue
                    text = wire.keep_alive() if batch is None else "".join(map(wire.event, merged(batch)))
                    if text:
                        await self._start(send)
                        await self._send(send, beginning + text)
                        beginning = ""
            last = beginning + wire.end()
        except Exception as error:
            told = self._told(error)
            if not self._started:
                await self._refuse(send, told)
                return
            last = beginning + wire.fail(told)
        await self._start(send)
        await self._send(send, last, more=False)

    async def _refuse(self, send: Send, error: ApiError) -> None:
        self.headers["Content-Type"] = "application/json"
        self.headers.update(error.headers)
        status, body = refusal(self._scope, error)
        await self._start(send, status)
        await self._send(send, json.dumps(body, ensure_ascii=False), more=False)

    async def _write_whole(self, send: Send) -> None:
        events: list[Event] = []
        try:
            async with aclosing(self.answer.batches(self._silence)) as batches:
                async for batch in batches:
                    if batch is None:
                        await self._start(send)
                        await self._send(send, "\n")
                    else:
                        events += batch
            count = 1 + max(event.index for event in events)
            replies = [Reply.of(event for event in events if event.index == index) for index in range(count)]
            body = self._wire.whole(replies)
        except Exception as error:
            await self._refuse(send, self._told(error))
            return
        await self._start(send)
        await self._send(send, json.dumps(body, ensure_ascii=False), more=False)

    def _told(self, error: Exception) -> ApiError:
        told = as_api_error(error)
        if told.status == 500:
            self.answer.log_exception(error, self._scope["state"]["request_id"])
        return told

    async def _start(self, send: Send, status: int = 200) -> None:
        if self._started:
            return
        self._started = True
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"  # a proxy must not collect what is streamed
        self.headers["X-Queue-Position"] = str(self.answer.position)
        self.headers["X-Queue-Wait"] = f"{self.answer.estimated_wait:.1f}"
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    @staticmethod
    async def _send(send: Send, text: str, *, more: bool = True) -> None:
        async with asyncio.timeout(STALLED):
            await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": more})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

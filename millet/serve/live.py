"""Replies of conversations while they stream: kept as they come, and watched by any number of clients.

A reply belongs to its conversation and not to a connection: whoever loses the connection comes back and gets the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import asdict, replace
from typing import Any

from millet.reasoning.reply import Event, ToolCall, Usage
from millet.serve.errors import ApiError, as_api_error
from millet.serve.service import STOPPING, Answer
from millet.serve.sse import to_json
from millet.serve.store import Message, Store
from millet.serve.store.records import Status
from millet.serve.wire import KEEP_ALIVE

KEPT = 60.0  # seconds that an ended reply stays in memory, for clients that come back
SILENCE = 2.0  # seconds after which a client is told its place in the queue, or that the server lives
WATCHERS = 64  # connections of one account that follow replies, besides those that began them


class LiveReplies:
    """All replies under way in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._replies: dict[str, LiveReply] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: Counter[str] = Counter()

    def start(self, message: Message, account: str, answer: Answer) -> LiveReply:
        """Run the answer to its end, whoever watches."""
        reply = LiveReply(message, account, answer, self._store)
        self._replies[message.id] = reply
        task = asyncio.create_task(reply.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: asyncio.get_running_loop().call_later(KEPT, self._forget, reply))
        return reply

    def get(self, account: str, message: str) -> LiveReply:
        """Raises ApiError 404 for a reply that is another's, or ended a while ago."""
        reply = self._replies.get(message)
        if reply is None or reply.account != account:
            raise ApiError(404, "no such reply is under way; load the conversation again", code="reply_not_found")
        return reply

    def check_ended(self, message: str) -> None:
        """Raises ApiError 409 for a reply that is under way here."""
        if message in self._replies and not self._replies[message].done:
            raise ApiError(409, "the reply is still being written; follow its events", code="reply_streaming")

    def check_watchers(self, account: str) -> None:
        """Raises ApiError 429 where the account follows as many replies as it may."""
        if self._watchers[account] >= WATCHERS:
            raise ApiError(
                429,
                f"{WATCHERS} connections of this account follow replies, which is the limit; close one",
                code="watchers",
                retry_after=SILENCE,
            )

    async def follow(self, reply: LiveReply, after: int) -> AsyncGenerator[str, None]:
        """`watch`, counted."""
        self._watchers[reply.account] += 1
        try:
            async with aclosing(reply.watch(after)) as texts:
                async for text in texts:
                    yield text
        finally:
            self._watchers[reply.account] -= 1
            if not self._watchers[reply.account]:
                del self._watchers[reply.account]

    async def close(self) -> None:
        """End what is under way; the store has what there is of it."""
        for reply in self._replies.values():
            reply.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _forget(self, reply: LiveReply) -> None:
        if self._replies.get(reply.message.id) is reply:  # and has not gone on since
            del self._replies[reply.message.id]


class LiveReply:
    """One reply. Its events are numbered from 1, so that a client can say which it has. Of a reply that goes on the
    first hold what there was of it."""

    def __init__(self, message: Message, account: str, answer: Answer, store: Store) -> None:
        self.message = message
        self.account = account
        self.events: list[str] = []
        self.done = False
        self._answer = answer
        self._store = store
        self._changed = asyncio.Event()
        self._sign = KEEP_ALIVE  # what is told where there is nothing new
        self._task: asyncio.Task[None] | None = None  # while there is something to stop
        self._stopped = False
        self._calls: list[ToolCall] = []
        self._thought_began: float | None = None
        self._thought_seconds: float | None = None  # once it is over
        self._end: Event | None = None
        thought, written = _tokens(message.usage)
        if message.reasoning:
            self._add({"kind": "reasoning", "text": message.reasoning, "tokens": thought})
        if message.content:
            self._add({"kind": "content", "text": message.content, "tokens": written})

    @property
    def thought_seconds(self) -> float:
        """Of the thought so far, or of all of it once it is over."""
        if self._thought_seconds is None and self._thought_began is not None:
            return self.message.thought_seconds + time.monotonic() - self._thought_began
        return self.message.thought_seconds + (self._thought_seconds or 0.0)

    def stop(self) -> None:
        """The person has seen enough: the reply ends with what there is."""
        if not self._stopped and self._task is not None:
            self._task.cancel()
        self._stopped = True

    async def run(self) -> None:
        self._task = asyncio.current_task()
        failure: ApiError | None = None
        try:
            if not self._stopped:  # before it began
                await self._generate()
        except asyncio.CancelledError:
            pass  # stopped; what there is of it is kept
        except Exception as error:
            failure = as_api_error(error)
            if failure.status == 500:
                self._answer.log_exception(error, self.message.id)
        finally:
            self._task = None  # the end is written, whoever wants to stop it now
            self._answer.close()
        with suppress(asyncio.CancelledError):
            await self._finish(self._end, failure)

    async def watch(self, after: int = 0) -> AsyncGenerator[str, None]:
        """Server-sent events behind number `after`, to the end, with the place in the queue while it waits."""
        while True:
            while after < (end := len(self.events)):
                text, after = "".join(self.events[after:end]), end
                yield text  # and meanwhile there may be more
            if self.done:
                return
            await self._changed.wait()
            if after >= len(self.events):
                yield self._sign

    async def _generate(self) -> None:
        async with aclosing(self._answer.batches(SILENCE)) as batches:
            async for batch in batches:
                for event in batch or ():
                    self._take(event)
                if not batch:
                    self._sign = self._waiting()  # once for all who watch
                self._tell()

    def _waiting(self) -> str:
        ticket = self._answer.ticket
        if not ticket.position:
            return KEEP_ALIVE
        return (
            f"data: {to_json({'kind': 'waiting', 'position': ticket.position, 'seconds': ticket.estimated_wait})}\n\n"
        )

    def _take(self, event: Event) -> None:
        if event.kind == "reasoning":
            self._thought_began = self._thought_began or time.monotonic()
        else:
            self._end_thought()
        match event.kind:
            case "reasoning" | "content" if event.text:
                self._store.replies.append(self.message.id, **{event.kind: event.text})
                self._add({"kind": event.kind, "text": event.text, "tokens": len(event.token_ids)})
            case "tool_call" if event.tool_call is not None:
                self._calls.append(event.tool_call)
                self._add({"kind": "tool_call", "tool_call": asdict(event.tool_call)})
            case "finish":
                self._end = event

    def _end_thought(self) -> float:
        """Its seconds so far, if it is under way, or in all."""
        if self._thought_seconds is None and self._thought_began is not None:
            self._thought_seconds = time.monotonic() - self._thought_began
        return self._thought_seconds or 0.0

    def _add(self, event: dict[str, Any]) -> None:
        self.events.append(f"data: {to_json({'number': len(self.events) + 1, **event})}\n\n")

    def _tell(self) -> None:
        """Wake who watches; who comes later waits for the next time."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _finish(self, end: Event | None, failure: ApiError | None) -> None:
        """On disk first, then told. What the reply has used before it went on is part of it."""
        status: Status = "failed" if failure else "stopped" if end is None else "complete"
        if failure is not None and failure.code == STOPPING:
            status = "interrupted"
        usage = end.usage if end is not None and end.usage is not None else self._answer.usage
        reason = end.finish_reason if end is not None else None
        if end is not None:
            seconds, thought = end.seconds, end.thought_seconds
        else:  # it broke off, and nobody else has taken the time of its thought
            seconds = self._answer.seconds
            thought = min(self._end_thought(), seconds)
        seconds += self.message.seconds or 0.0
        thought += self.message.thought_seconds
        used = _together(self.message.usage, usage)
        written = self._store.replies.finish(
            self.message.id,
            status,
            finish_reason=reason,
            usage=used,
            tool_calls=tuple(self._calls),
            thought_seconds=thought,
            seconds=seconds,
        )
        with suppress(Exception):  # the writer has logged it and goes on trying
            await asyncio.wait_for(asyncio.wrap_future(written), 10)
        self._add(
            {
                "kind": "finish",
                "status": status,
                "finish_reason": reason,
                "usage": asdict(used) if used is not None else None,
                "thought_seconds": round(thought, 3),
                "seconds": round(seconds, 3),
                "error": failure.body["error"] if failure is not None else None,
            }
        )
        self.done = True
        self._tell()


def _tokens(usage: Usage | None) -> tuple[int, int]:
    """Of the thought, and of the rest."""
    return (usage.reasoning_tokens, usage.completion_tokens - usage.reasoning_tokens) if usage else (0, 0)


def _together(before: Usage | None, now: Usage) -> Usage | None:
    """Of a reply in two runs: all that was generated, and the prompt of the last. None where nothing was counted."""
    if before is None or now == Usage():
        return before if now == Usage() else now
    return replace(
        now,
        completion_tokens=before.completion_tokens + now.completion_tokens,
        reasoning_tokens=before.reasoning_tokens + now.reasoning_tokens,
    )

"""What a wire format is: how a reply's events become the bytes that one kind of client expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from millet.reasoning.reply import Event, Reply
from millet.serve.errors import ApiError


class Wire(Protocol):
    """One reply on its way to a client. Each method returns server-sent events as text, with their blank lines, or ""
    where there is nothing to say. No `id:` lines: a stream cannot be resumed by its client."""

    def begin(self) -> str:
        """Sent before the first event of the reply, when the reply's turn has come."""
        ...

    def event(self, event: Event) -> str: ...

    def end(self) -> str:
        """After the finish of every sample."""
        ...

    def fail(self, error: ApiError) -> str:
        """The reply broke off: close whatever is open, with a finish reason, and end."""
        ...

    def keep_alive(self) -> str:
        """While there is nothing to send."""
        ...

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """All samples at once, for a client that did not ask for a stream."""
        ...


def merged(events: Sequence[Event]) -> list[Event]:
    """Texts of one kind and sample that came together, as one: a client that lags gets fewer and longer pieces."""
    pieces: list[list[Event]] = []
    for event in events:
        last = pieces[-1][0] if pieces else None
        if last and event.kind in ("reasoning", "content") and (last.kind, last.index) == (event.kind, event.index):
            pieces[-1].append(event)
        else:
            pieces.append([event])
    return [piece[0] if len(piece) == 1 else _joined(piece) for piece in pieces]


def _joined(events: Sequence[Event]) -> Event:
    return Event(
        events[0].kind,
        "".join(event.text for event in events),
        tuple(token for event in events for token in event.token_ids),
        events[0].index,
        logprobs=tuple(entry for event in events for entry in event.logprobs),
    )


KEEP_ALIVE = ": keep-alive\n\n"

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


KEEP_ALIVE = ": keep-alive\n\n"

"""A request, whatever wire format it came in, and what answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from millet.reasoning.assistant import Options
from millet.reasoning.reply import Event


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Either `messages`, in OpenAI's form with text contents, or for a plain completion `prompt`, with what should
    follow the gap in `suffix`. options: as `Assistant.stream` takes them (think, max_tokens, n, tools, schema, ...).
    """

    model: str
    messages: tuple[Mapping[str, Any], ...] = ()
    options: Options = field(default_factory=Options)
    prompt: str | None = None
    suffix: str | None = None


class Prepared(Protocol):
    """A request that was checked and can begin. prompt_tokens and max_tokens are what admission reckons with; an
    upstream's prompt_tokens are an estimate."""

    prompt_tokens: int
    max_tokens: int

    def stream(self) -> AsyncGenerator[Event, None]:
        """The events as they come. Closing it cancels the reply: its slot is free within one engine step."""
        ...


class Backend(Protocol):
    """What answers for some models: the embedded engine or an upstream."""

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Check the request, without engine time. Raises MilletError (BadRequest, PromptTooLong, ApiError)."""
        ...

    async def ready(self) -> str | None:
        """None when it can answer now, else the reason why not."""
        ...

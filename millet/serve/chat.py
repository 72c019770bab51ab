"""A request, whatever wire format it came in, and what answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from millet.models.catalog import CatalogEntry
from millet.reasoning.assistant import Options, Thinks
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
    upstream's prompt_tokens are an estimate. token_bytes: what a token in an event's `logprobs` spells."""

    prompt_tokens: int
    max_tokens: int
    token_bytes: Callable[[int], bytes]

    def stream(self) -> AsyncGenerator[Event, None]:
        """The events as they come. Closing it cancels the reply: its slot is free within one engine step."""
        ...


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a model is on its way: bytes of its files that were downloaded, or weights that are in memory, and of how
    many; None where that is not known."""

    step: Literal["download", "load"]
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of a model now; None is unknown. context_length: tokens, of prompt and reply together. about: what
    the catalog says. cache_used, cache_total: tokens in the cache of this process's engine."""

    state: Literal["loading", "ready", "unreachable"]
    progress: LoadProgress | None = None
    context_length: int | None = None
    thinks: Thinks | None = None
    about: CatalogEntry | None = None
    cache_used: int | None = None
    cache_total: int | None = None


class Backend(Protocol):
    """What answers for some models: the embedded engine or an upstream."""

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Check the request, without engine time. Raises MilletError (BadRequest, PromptTooLong, ApiError)."""
        ...

    async def load(self) -> None:
        """Get ready, as far as that takes time. Raises MilletError where it never will be."""
        ...

    async def ready(self) -> str | None:
        """None when it can answer now, else the reason why not."""
        ...

    def status(self) -> ModelStatus:
        """At once, also while it loads."""
        ...

    def close(self) -> None:
        """End everything under way."""
        ...

"""What comes back: the events of a reply under way, and the reply as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["reasoning", "content", "tool_call", "finish"]
Ending = Literal["model", "budget", "loop"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. reasoning_tokens are part of completion_tokens: all that were generated for the thought, with its marks,
    also where these were forced. cached_tokens are the part of prompt_tokens that had not to be computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


def total(usages: Iterable[Usage]) -> Usage:
    """Of several samples of one prompt, which was read once."""
    each = list(usages)
    if not each:
        return Usage()
    return Usage(
        prompt_tokens=each[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in each),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in each),
        cached_tokens=each[0].cached_tokens,
    )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model makes. arguments: a JSON object, as text. id: what the tool's answer refers to."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What the model gave one generated token, natural logarithm; top: (token id, log-probability) of the likeliest."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of a reply. The texts of one kind, one after the other, are the reply's; the token ids of all events are
    all ids that were generated. `text` may be empty, where tokens stand for no text (marks, ends). An event of kind
    "tool_call" has a whole call and no text. logprobs: one for each of token_ids, where they were asked for.

    The last event of a reply is of kind "finish" and alone has the fields from `finish_reason` on, as in `Reply`.
    index: which of several samples.
    """

    kind: Kind
    text: str = ""
    token_ids: tuple[int, ...] = ()
    index: int = 0
    tool_call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    thought_ended: Ending | None = None
    seconds: float = 0.0
    thought_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply.

    reasoning, content: text without the marks around the thought, and without tool calls. finish_reason: "stop" |
    "length" | "tool_calls" (it ended after some) | "loop" (thought or content repeated itself and was ended) |
    "cancelled". tool_calls: in order. logprobs: of the content's tokens, where they were asked for. thought_ended: what
    ended the thought; None without one. seconds: from the request to the end; thought_seconds: from the thought's first
    token to its end.
    vote_share, votes: where several replies were sampled, the share of those that gave this answer, and how many gave
    each answer. usage is then of all of them together.
    """

    reasoning: str
    content: str
    finish_reason: str
    usage: Usage
    thought_ended: Ending | None = None
    seconds: float = 0.0
    thought_seconds: float = 0.0
    vote_share: float | None = None
    votes: Mapping[str, int] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> Reply:
        """The reply that one sample's events make up."""
        texts = {"reasoning": "", "content": ""}
        calls: list[ToolCall] = []
        logprobs: list[TokenLogprob] = []
        for event in events:
            if event.kind == "tool_call" and event.tool_call:
                calls.append(event.tool_call)
            elif event.kind in texts:
                texts[event.kind] += event.text
                logprobs += event.logprobs if event.kind == "content" else ()
        assert event.kind == "finish"
        assert event.usage is not None
        return cls(
            reasoning=texts["reasoning"],
            content=texts["content"],
            finish_reason=event.finish_reason or "stop",
            usage=event.usage,
            tool_calls=tuple(calls),
            logprobs=tuple(logprobs),
            thought_ended=event.thought_ended,
            seconds=event.seconds,
            thought_seconds=event.thought_seconds,
        )

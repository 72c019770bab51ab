"""What another server streams, as events: server-sent events to JSON to `Event`."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from millet.reasoning.marks import scan
from millet.reasoning.reply import Event, TokenLogprob, ToolCall, Usage
from millet.serve.errors import ApiError

Part = Literal["reasoning", "content"]

OPEN, CLOSE = "<think>", "</think>"
LONGEST = 1024 * 1024  # bytes of one event: what is longer is no answer
LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a \r at the end may be half of \r\n
DONE = "[DONE]"
FINISHES = {
    "stop": "stop",
    "eos": "stop",
    "content_filter": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "abort": "cancelled",
    "insufficient_system_resource": None,  # DeepSeek broke it off
}


def broke_off(what: str) -> ApiError:
    message = f"the server behind this model {what}; try again"
    return ApiError(503, message, code="upstream_failed", retry_after=5)


class ToldError(Exception):
    """The other server told of an error instead of going on. error: what it wrote."""

    def __init__(self, error: object) -> None:
        super().__init__()
        self.error = error


class ServerSentEvents:
    """Bytes in, cut anywhere; the data of whole events out. https://html.spec.whatwg.org/#event-stream-interpretation"""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        *lines, self._rest = LINE_END.split(self._rest + chunk)
        for line in lines:
            yield from self._line(line)
        if self._size + len(self._rest) > LONGEST:
            raise broke_off("sent an endless line")

    def end(self) -> Iterator[str]:
        """The last event may lack its blank line."""
        yield from self._line(self._rest.rstrip(b"\r"))
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                yield b"\n".join(self._data).decode("utf-8", "replace")
            self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._size += len(line)


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class ToolDelta(BaseModel):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolDelta] | None = None


class Scored(BaseModel):
    token: str
    logprob: float
    top_logprobs: list[Scored] | None = None


class Logprobs(BaseModel):
    """content, of chats; the rest of plain completions."""

    content: list[Scored] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(BaseModel):
    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Details(BaseModel):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class UsageBody(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None  # SGLang's place
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class Chunk(BaseModel):
    choices: list[Choice] | None = None
    usage: UsageBody | None = None
    error: Any = None


class TokenTable:
    """Other servers tell tokens by their text. Within one reply each gets a number; 0 is a piece of text whose tokens
    are not known."""

    def __init__(self) -> None:
        self._texts: list[str] = [""]
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return self._numbers[text]

    def spelled(self, number: int) -> bytes:
        return self._texts[number].encode()


@dataclass
class Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Sample:
    """One reply of several. phase: where in the inline marks it is; "start" while an opening mark may still come.
    held: text that may be part of a mark. after_mark: nothing but line ends has come since."""

    phase: Literal["start", "thought", "content"] = "start"
    held: str = ""
    after_mark: bool = False
    calls: dict[int, Call] = field(default_factory=dict)
    finish_reason: str | None = None
    pieces: int = 0
    thought_pieces: int = 0
    thought_began: float = 0.0
    thought_ended: float = 0.0


def _unmarked(sample: Sample) -> Iterator[tuple[Part, str]]:
    """What is certain of the held text, without inline marks. Only one that the reply begins with opens a thought."""
    if sample.phase == "start":
        begun = sample.held.lstrip()
        if len(begun) < len(OPEN) and OPEN.startswith(begun):
            return
        sample.after_mark = begun.startswith(OPEN)
        sample.phase = "thought" if sample.after_mark else "content"
        sample.held = begun[len(OPEN) :] if sample.after_mark else sample.held
    if sample.phase == "thought":
        before, mark, sample.held = scan(sample.held, (CLOSE,))
        if text := _without_line_ends(sample, before):
            yield "reasoning", text
        if not mark:
            return
        sample.phase, sample.after_mark = "content", True
    text, sample.held = sample.held, ""
    if text := _without_line_ends(sample, text):
        yield "content", text


def _without_line_ends(sample: Sample, text: str) -> str:
    """Those after a mark belong to it."""
    if sample.after_mark:
        text = text.lstrip("\n")
        sample.after_mark = not text
    return text


class Reply:
    """Chunks in, events out; the finishes come at the end, when the usage is known."""

    def __init__(self, samples: int, tokens: TokenTable, prompt_tokens: int) -> None:
        self._samples = [Sample() for _ in range(samples)]
        self._tokens = tokens
        self._prompt_tokens = prompt_tokens
        self._usage: UsageBody | None = None
        self._began = time.perf_counter()

    def chunk(self, data: str) -> Iterator[Event]:
        """Raises ApiError for what is no chunk, and ToldError."""
        try:
            chunk = Chunk.model_validate_json(data)
        except ValidationError:
            raise broke_off("sent something that cannot be read") from None
        if chunk.error is not None:
            raise ToldError(chunk.error)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            if not 0 <= choice.index < len(self._samples):
                raise broke_off("sent a reply that nobody asked for")
            yield from self._choice(choice, self._samples[choice.index])

    def _choice(self, choice: Choice, sample: Sample) -> Iterator[Event]:
        delta, at = choice.delta or Delta(), choice.index
        logprobs = tuple(self._logprobs(choice.logprobs)) if choice.logprobs else ()
        if thought := delta.reasoning_content or delta.reasoning:
            sample.phase = "content"  # this server tells thoughts apart itself
            yield self._event(sample, "reasoning", thought, at, () if delta.content else logprobs)
        if text := delta.content or choice.text:
            yield from self._text(sample, text, at, logprobs)
        for part in delta.tool_calls or ():
            call, function = sample.calls.setdefault(part.index or 0, Call()), part.function or FunctionDelta()
            call.id = call.id or part.id or ""
            call.name = call.name or function.name or ""
            call.arguments += function.arguments or ""
        if choice.finish_reason is not None and sample.finish_reason is None:
            yield from self._ending(sample, choice.finish_reason, at)

    def _text(self, sample: Sample, text: str, at: int, logprobs: tuple[TokenLogprob, ...]) -> Iterator[Event]:
        sample.held += text
        pieces = list(_unmarked(sample)) or [("content" if sample.phase == "content" else "reasoning", "")]
        for kind, piece in pieces[:-1]:  # the tokens are the last's, so that they are counted once
            yield Event(kind, piece, index=at)
        yield self._event(sample, *pieces[-1], at, logprobs)

    def _event(self, sample: Sample, kind: Part, text: str, at: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Event:
        now = time.perf_counter()
        ids = tuple(one.token_id for one in logprobs) or (0,)
        sample.pieces += len(ids)
        if kind == "reasoning":
            sample.thought_pieces += len(ids)
            sample.thought_began = sample.thought_began or now
            sample.thought_ended = now
        return Event(kind, text, ids, at, logprobs=logprobs)

    def _logprobs(self, body: Logprobs) -> Iterator[TokenLogprob]:
        number = self._tokens.number
        for one in body.content or ():
            top = tuple((number(other.token), other.logprob) for other in one.top_logprobs or ())
            yield TokenLogprob(number(one.token), one.logprob, top)
        tops = body.top_logprobs or [None] * len(body.tokens or ())
        for token, logprob, others in zip(body.tokens or (), body.token_logprobs or (), tops, strict=False):
            likeliest = tuple((number(text), value) for text, value in (others or {}).items())
            yield TokenLogprob(number(token), logprob or 0.0, likeliest)

    def _ending(self, sample: Sample, reason: str, at: int) -> Iterator[Event]:
        finish = FINISHES.get(reason, "stop")
        if finish is None:
            raise broke_off("ran out of resources")
        sample.finish_reason = "tool_calls" if sample.calls and finish == "stop" else finish
        if sample.held:  # no mark after all
            yield Event("reasoning" if sample.phase == "thought" else "content", sample.held, index=at)
            sample.held = ""
        for _, call in sorted(sample.calls.items()):
            whole = ToolCall(call.id or f"call_{uuid.uuid4().hex[:24]}", call.name, call.arguments or "{}")
            yield Event("tool_call", index=at, tool_call=whole)

    def end(self) -> Iterator[Event]:
        """The finish of every sample. Raises ApiError where one has none. All completion tokens are the first's: other
        servers tell only their sum."""
        if any(sample.finish_reason is None for sample in self._samples):
            raise broke_off("ended in the middle of the reply")
        total = self._total()
        for index, sample in enumerate(self._samples):
            usage = total if index == 0 else replace(total, completion_tokens=0, reasoning_tokens=0)
            yield Event(
                "finish",
                index=index,
                finish_reason=sample.finish_reason,
                usage=usage,
                thought_ended="model" if sample.thought_pieces else None,
                seconds=time.perf_counter() - self._began,
                thought_seconds=sample.thought_ended - sample.thought_began,
            )

    def _total(self) -> Usage:
        """As the server counted, and where it did not, a piece for a token."""
        body = self._usage or UsageBody()
        prompt = self._prompt_tokens if body.prompt_tokens is None else body.prompt_tokens
        pieces = sum(sample.pieces for sample in self._samples)
        thought = sum(sample.thought_pieces for sample in self._samples)
        completion = pieces if body.completion_tokens is None else body.completion_tokens
        details, cached = body.completion_tokens_details or Details(), body.prompt_tokens_details or Details()
        reasoning = body.reasoning_tokens if details.reasoning_tokens is None else details.reasoning_tokens
        if reasoning is None or (not reasoning and thought):
            reasoning = round(completion * thought / max(1, pieces))
        return Usage(
            prompt,
            completion,
            min(reasoning, completion),
            min(body.prompt_cache_hit_tokens or cached.cached_tokens or 0, prompt),
        )

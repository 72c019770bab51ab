"""The way of every reply: whose model, may it, when is its turn, and what did it use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Literal, cast
from weakref import WeakValueDictionary

from millet.errors import PromptTooLong
from millet.reasoning.assistant import Options
from millet.reasoning.reply import Event, Usage, total
from millet.serve.admission import Admission, Spending, Ticket
from millet.serve.caller import Caller
from millet.serve.chat import Backend, ChatRequest, Prepared
from millet.serve.errors import ApiError
from millet.serve.logs import RequestLog
from millet.serve.metrics import Metrics
from millet.serve.pace import Pace

ALIASES = {"deepseek-chat": "off", "deepseek-reasoner": "on"}
"""Names that DeepSeek's clients come with; they mean the default model."""

SUFFIXES = {"-chat": "off", "-reasoner": "on"}
"""Behind any model's name, for clients that switch thinking by name."""

STOPPING = "server_stopping"

OnUsage = Callable[[Caller, str, Usage], None]
OfCaller = Callable[[Caller], Awaitable[Spending]]


@dataclass(frozen=True, slots=True)
class PromptCount:
    """prompt_tokens: exact, or None where only another server could count them, or they are far too many.
    context_length: tokens, of prompt and reply together; None where it is not known. fits: a reply to it can begin."""

    prompt_tokens: int | None
    context_length: int | None
    fits: bool


class Service:
    """backends: by model name, the default first. spending: what a caller has spent so far. on_usage: told of what
    every reply used, also of those that broke off; called in the event loop. max_tokens: of a reply whose request does
    not say."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        admission: Admission,
        metrics: Metrics,
        log: RequestLog,
        *,
        spending: OfCaller,
        on_usage: OnUsage,
        max_tokens: int = 2048,
    ) -> None:
        self.backends = dict(backends)
        self.admission = admission
        self.metrics = metrics
        self.log = log
        self.paces = {name: Pace() for name in backends}
        self._spending = spending
        self._on_usage = on_usage
        self._max_tokens = max_tokens
        self.answers: set[Answer] = set()
        """Under way."""
        self._closing = False
        self._counting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def model_names(self) -> list[str]:
        return [*(name + suffix for name in self.backends for suffix in ("", *SUFFIXES)), *ALIASES]

    def resolve(self, model: str) -> tuple[str, Literal["off", "on"]]:
        """The model that a name means, and whether it thinks unless the request says otherwise."""
        default = next(iter(self.backends))
        names = {name: (name, "on") for name in self.backends}
        names |= {name + end: (name, think) for name in self.backends for end, think in SUFFIXES.items()}
        names |= {alias: (default, think) for alias, think in ALIASES.items() if alias not in names}
        if model not in names:
            known = ", ".join(self.backends)
            raise ApiError(
                404,
                f"no such model is served here; there are {known}, each also with {' or '.join(SUFFIXES)} added",
                param="model",
                code="model_not_found",
            )
        name, think = names[model]
        return name, "off" if think == "off" else "on"

    def running(self, model: str) -> int:
        """Replies of this model that have begun, each sample of them."""
        entries = (answer.ticket.entry for answer in self.answers if answer.model == model)
        return sum(entry.width for entry in entries if entry.running)

    async def count_tokens(self, caller: Caller, request: ChatRequest) -> int:
        """Of the prompt. Counts as a request. Raises MilletError."""
        self.admission.count(caller)
        _, prepared = await self._prepare(request)
        return prepared.prompt_tokens

    async def measure(self, caller: Caller, request: ChatRequest) -> PromptCount:
        """The prompt of a request that is still being written. Takes no place and counts as no request; but of each
        account one at a time is counted, so that its typing does not hold up other people's prompts."""
        model, _ = self.resolve(request.model)
        async with self._counting.setdefault(caller.account, asyncio.Lock()):
            tokens: int | None
            try:
                tokens, fits = (await self._prepare(request))[1].prompt_tokens, True
            except PromptTooLong as error:
                tokens, fits = error.prompt_tokens, False
        length = self.backends[model].status().context_length
        return PromptCount(tokens if length is not None else None, length, fits)

    async def open(self, caller: Caller, request: ChatRequest) -> Answer:
        """Check and admit a request. Raises MilletError; after that, the answer is under way."""
        if self._closing:
            raise _closing()
        self.admission.check(caller)
        name, prepared = await self._prepare(request)
        spending = await self._spending(caller)
        if self._closing:  # meanwhile
            raise _closing()
        samples = request.options.get("n") or 1
        ticket = self.admission.enter(
            caller,
            prompt_tokens=prepared.prompt_tokens,
            max_tokens=prepared.max_tokens,
            samples=samples,
            spending=spending,
        )
        answer = Answer(self, caller, name, prepared, ticket)
        self.answers.add(answer)
        return answer

    async def _prepare(self, request: ChatRequest) -> tuple[str, Prepared]:
        """The model's name and the checked request. Raises MilletError; costs no engine time."""
        name, think = self.resolve(request.model)
        defaults = {"max_tokens": self._max_tokens} | ({} if request.prompt is not None else {"think": think})
        options = cast(Options, {**defaults, **request.options})
        return name, await self.backends[name].prepare(replace(request, model=name, options=options))

    def close(self) -> None:
        """Break off what is under way, so that every stream ends with its reason; nothing new is begun."""
        self._closing = True
        for answer in list(self.answers):
            answer.abort(_closing())

    async def ready(self) -> str | None:
        """None when every model can answer, else the first reason why not."""
        for backend in self.backends.values():
            if reason := await backend.ready():
                return reason
        return None

    def settle(self, answer: Answer) -> None:
        """An answer has ended: count what it used."""
        waited = answer.ticket.waited
        if waited is not None:
            self.metrics.waited(waited)
            self.metrics.reply(answer.model, answer.usage, answer.seconds)
        if answer.usage.prompt_tokens:
            self._on_usage(answer.caller, answer.model, answer.usage)


class Answer:
    """A request that was admitted, or waits for its turn. `batches` must be run to its end or closed, once."""

    def __init__(self, service: Service, caller: Caller, model: str, prepared: Prepared, ticket: Ticket) -> None:
        self.caller = caller
        self.model = model
        self.prepared = prepared
        self.ticket = ticket
        self.position = ticket.position
        """In the queue, when it came."""
        self.estimated_wait = ticket.estimated_wait
        self.usage = Usage()
        self.finish_reason: str | None = None
        self._service = service
        self.seconds = 0.0
        """From its turn to its end; 0 while it runs, and where its turn never came."""
        self._opened = time.monotonic()
        self._ready: list[Event] = []
        self._flag = asyncio.Event()
        self._usages: dict[int, Usage] = {}
        self._generated = 0
        self._thought = 0
        self._begun = self._closed = False
        self._pump: asyncio.Task[None] | None = None
        self._aborted: ApiError | None = None

    @property
    def age(self) -> float:
        """Seconds since it was admitted."""
        return time.monotonic() - self._opened

    async def batches(self, silence: float) -> AsyncGenerator[list[Event] | None, None]:
        """Whatever events have come since the last batch; first an empty batch when its turn has come. None after
        `silence` seconds without anything. Raises what broke the reply. Closing it cancels the rest."""
        if self._aborted is not None:  # before it began
            self.close()
            raise self._aborted
        self._pump = pump = asyncio.create_task(self._run())
        pump.add_done_callback(lambda _: self._flag.set())
        told = False
        try:
            while not (pump.done() and not self._ready):
                try:
                    async with asyncio.timeout(silence):
                        await self._flag.wait()
                except TimeoutError:
                    yield None
                    continue
                self._flag.clear()
                if self._begun and not told:
                    told = True
                    yield []
                batch, self._ready = self._ready, []
                if batch:
                    yield batch
            if self._aborted is not None:
                raise self._aborted
            pump.result()
        finally:
            pump.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await pump
            self.close()

    def abort(self, error: ApiError) -> None:
        """Break it off: `batches` raises this once its client has what there is."""
        self._aborted = error
        if self._pump is not None:
            self._pump.cancel()

    def close(self) -> None:
        """Give the place back, also where `batches` never began. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._service.answers.discard(self)
            self._settle()

    def log_exception(self, error: Exception, request_id: str) -> None:
        self._service.log.log_exception(error, request_id=request_id)

    async def _run(self) -> None:
        """Waits for its turn, and then takes events as fast as they come, whatever the client's pace: a reply is
        bounded, and a client that does not read keeps no place in the engine."""
        first = True
        try:
            await self.ticket.admitted()
            self._begun = True
            self._flag.set()
            async with aclosing(self.prepared.stream()) as events:
                async for event in events:
                    if first and event.token_ids:
                        first = False
                        self._service.metrics.first_token(self.model, self.age)
                    self._count(event)
                    self._ready.append(event)
                    self._flag.set()
        finally:
            self.close()

    def _count(self, event: Event) -> None:
        if event.usage is not None:
            self._usages[event.index] = event.usage
            self.finish_reason = event.finish_reason
        elif event.token_ids:
            self._generated += len(event.token_ids)
            self._thought += len(event.token_ids) if event.kind == "reasoning" else 0
            self.ticket.charge(output=len(event.token_ids))
            self._service.paces[self.model].add(len(event.token_ids))

    def _settle(self) -> None:
        """What was used, also by a reply that broke off: its prompt was read, and its tokens were generated."""
        if self._usages or self._generated:
            known = total(self._usages.values())
            self.usage = replace(
                known,
                prompt_tokens=known.prompt_tokens or self.prepared.prompt_tokens,
                completion_tokens=max(known.completion_tokens, self._generated),
                reasoning_tokens=max(known.reasoning_tokens, self._thought),
            )
        self.seconds = self.age - self.ticket.waited if self.ticket.waited is not None else 0.0
        self._service.settle(self)
        self.ticket.release(self.usage)


def _closing() -> ApiError:
    return ApiError(503, "the server is being stopped; try again soon", code=STOPPING, retry_after=10)

"""The engine of this process as a backend: its threads on one side, the event loop on the other."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millet.errors import MilletError, PromptTooLong
from millet.models.catalog import catalog
from millet.models.hub import pull
from millet.models.progress import Progress
from millet.reasoning.reply import Event
from millet.serve.chat import ChatRequest, LoadProgress, ModelStatus
from millet.serve.errors import ApiError

if TYPE_CHECKING:
    from millet.models.packing import Quantize
    from millet.reasoning.assistant import Assistant, Prepared
    from millet.reasoning.run import Run

READING = 2  # threads that render and tokenize prompts: work that must not hold up the event loop


def served_name(source: str) -> str:
    """What clients call a model: its own name, or for a file or directory, the last part of the path."""
    path = Path(source)
    return path.name.removesuffix(".gguf") if path.exists() else source


class Embedded:
    """One model in this process. It loads in the background; until then requests are refused with 503.

    source: as `millet.load` takes it. fetch: brings it here, as `hub.pull` does, which it is by default.
    """

    def __init__(
        self,
        source: str,
        *,
        quantize: Quantize | None = None,
        slots: int = 32,
        fetch: Callable[[str, Progress], object] = pull,
    ) -> None:
        self._source = source
        self._fetch = fetch
        self.name = served_name(source)
        self._quantize = quantize
        self._slots = slots
        self._assistant: Assistant | None = None
        self._failure: str | None = None
        self._progress: LoadProgress | None = None
        self._readers = ThreadPoolExecutor(READING, thread_name_prefix="millet-prompt")
        self._news: News | None = None
        self._longest = 0  # bytes of the longest token, once it was looked for

    @classmethod
    def of(cls, assistant: Assistant, name: str) -> Embedded:
        """A backend of an assistant that is there already."""
        backend = cls(name)
        backend._assistant = assistant
        return backend

    async def load(self) -> None:
        """Fetch and load the model. A failure is kept, and told by `ready`."""
        if self._assistant is not None:
            return
        try:
            self._progress = LoadProgress("download")
            await _in_daemon(lambda: self._fetch(self._source, self._fetched))
            self._progress = LoadProgress("load")
            self._assistant = await asyncio.to_thread(self._load)
        except Exception as error:
            self._failure = str(error) if isinstance(error, MilletError) else f"{self.name} could not be loaded"
            raise

    def _load(self) -> Assistant:
        from millet.engine.engine import Engine
        from millet.models.load import load
        from millet.reasoning.assistant import Assistant

        model = load(self._source, quantize=self._quantize, on_weights=self._loaded)
        return Assistant(Engine(model, max_batch=self._slots))

    def _fetched(self, what: str, done: int, total: int | None) -> None:
        self._progress = LoadProgress("download", done, total)

    def _loaded(self, done: int, total: int) -> None:
        self._progress = LoadProgress("load", done, total)

    def status(self) -> ModelStatus:
        about = catalog().get(self._source)
        if self._assistant is None:
            if self._failure is not None:
                return ModelStatus("unreachable", about=about)
            return ModelStatus("loading", self._progress, about=about)
        engine = self._assistant.engine
        stats = engine.stats()
        return ModelStatus(
            "ready",
            context_length=engine.context_length,
            thinks=self._assistant.thinks,
            about=about,
            cache_used=stats["cache_tokens"] - stats["cache_free_tokens"],
            cache_total=stats["cache_tokens"],
        )

    async def ready(self) -> str | None:
        if self._assistant is not None:
            return None
        return self._failure or f"{self.name} is still being loaded"

    async def prepare(self, request: ChatRequest) -> EmbeddedReply:
        assistant = self._assistant
        if assistant is None:
            reason = await self.ready()
            raise ApiError(503, f"{reason}; try again soon", code="model_not_ready", retry_after=5)
        loop = asyncio.get_running_loop()
        if self._news is None or self._news.loop is not loop:
            self._news = News(loop)
        prepared = await loop.run_in_executor(self._readers, self._read, assistant, request)
        return EmbeddedReply(prepared, self._news)

    def _read(self, assistant: Assistant, request: ChatRequest) -> Prepared:
        self._check_size(assistant, request)
        if request.prompt is not None:
            return assistant.prepare_completion(request.prompt, request.suffix, **request.options)
        return assistant.prepare(request.messages, **request.options)

    def _check_size(self, assistant: Assistant, request: ChatRequest) -> None:
        """Refuse what would not fit if all its tokens were the longest there are: megabytes take seconds to tokenize,
        in which other prompts wait."""
        if not self._longest:
            tokenizer = assistant.model.tokenizer
            self._longest = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        options = request.options
        parts = [request.prompt, request.suffix, request.messages, options.get("tools"), options.get("schema")]
        size = _characters(parts)  # a character is a byte or more
        context = assistant.engine.context_length
        if size > context * self._longest:
            raise PromptTooLong(
                f"the text is {size} characters long, which cannot fit into the context of {context} tokens; shorten it"
            )

    def running(self) -> int:
        """Sequences in the engine's batch."""
        return self._assistant.engine.stats()["running"] if self._assistant is not None else 0

    def close(self) -> None:
        """End the engine, and with it every reply under way."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._assistant is not None:
            self._assistant.engine.close()


async def _in_daemon(work: Callable[[], object]) -> None:
    """In a thread of which the process does not wait when it ends: a download takes minutes, and goes on next time
    where it stopped."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(end, failure)

    threading.Thread(target=run, name="millet-fetch", daemon=True).start()
    await done


def _characters(value: Any) -> int:
    """Of all text in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


class EmbeddedReply:
    """A checked request; see `Prepared` in chat.py."""

    def __init__(self, prepared: Prepared, news: News) -> None:
        self.prompt_tokens = prepared.prompt_tokens
        self.max_tokens = prepared.max_tokens
        self.token_bytes = prepared.token_bytes
        self._prepared = prepared
        self._news = news

    async def stream(self) -> AsyncGenerator[Event, None]:
        flag = asyncio.Event()
        run: Run | None = None
        told = False

        def on_news() -> None:
            nonlocal told
            self._news.tell(flag, at_once=not told or (run is not None and run.ended))
            told = True

        run = self._prepared.start(on_news)
        self._news.begin()
        try:
            while not run.done:
                await flag.wait()
                flag.clear()
                for event in run.poll():
                    yield event
        finally:
            self._news.end()
            if not run.done:
                run.cancel()


class News:
    """Carries news from the engine's thread into the event loop.

    The first and the last of a stream at once, the rest at a pace: each waking of the loop takes a core from the
    engine, whose steps are quicker than anybody reads. With one stream a piece every 13 ms, with 32 one every 0.1 s, of
    what came by then.
    """

    PACE = 0.01  # seconds between wakings
    PACE_PER_STREAM = 0.003

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._flags: deque[asyncio.Event] = deque()
        self._streams = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """One stream more, in the loop."""
        self._streams += 1
        if self._timer is None:
            self._wait()

    def end(self) -> None:
        self._streams -= 1

    def tell(self, flag: asyncio.Event, *, at_once: bool) -> None:
        """From any thread: set the flag, in the loop."""
        if not at_once:
            self._flags.append(flag)
            return
        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            self.loop.call_soon_threadsafe(flag.set)

    def _wait(self) -> None:
        pace = self.PACE + self.PACE_PER_STREAM * self._streams
        self._timer = self.loop.call_later(pace, self._wake) if self._streams else None

    def _wake(self) -> None:
        while self._flags:
            self._flags.popleft().set()
        self._wait()

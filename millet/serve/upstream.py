"""Another OpenAI-compatible server, or several alike, as a backend."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import httpx2

from millet.errors import MilletError
from millet.reasoning.reply import Event
from millet.serve.chat import ChatRequest, ModelStatus, Prepared
from millet.serve.config import UpstreamConfig
from millet.serve.errors import ApiError
from millet.serve.upstream_request import MAX_TOKENS, body_of, estimate, path_of
from millet.serve.upstream_stream import DONE, Reply, ServerSentEvents, TokenTable, ToldError, broke_off

SILENCE = 300.0  # seconds without a byte: a long prompt may take as long to read
CONNECT = 5.0
CHECK_EVERY = 10.0
CHECK_AT_MOST = 60.0  # after failures, twice as long each time
REFUSAL = 64 * 1024  # bytes read of a refusal's body
AWAY = frozenset((502, 503, 504))  # no answer yet, so another replica may give one
OURS = frozenset((401, 402, 403))  # about this server's key or account there, not the client's here


class Replica:
    """One server. outstanding: replies under way there. fault: why it is not used while others are there."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.outstanding = 0
        self.fault: str | None = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.outstanding += 1
        try:
            yield
        finally:
            self.outstanding -= 1


class Upstream:
    """Serves `name` through others. silence: seconds without a byte after which a reply is given up. check_every:
    seconds between health checks.

    Raises MilletError where the environment lacks the key.
    """

    def __init__(
        self, name: str, config: UpstreamConfig, *, silence: float = SILENCE, check_every: float = CHECK_EVERY
    ) -> None:
        self.name = name
        self.config = config
        self.replicas = [Replica(url) for url in config.replicas]
        if not self.replicas:
            raise MilletError(
                f"upstream {name} has no replicas; give at least one base URL, such as http://host:8000/v1"
            )
        self.silence = silence
        self._check_every = check_every
        self._key = os.environ.get(config.key_env) if config.key_env else None
        if config.key_env and not self._key:
            raise MilletError(f"upstream {name} needs its API key in {config.key_env}; set it, or leave key_env out")
        self.client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(silence, connect=min(CONNECT, silence)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing: asyncio.Task[None] | None = None
        """Ends when all connections are closed."""

    async def load(self) -> None:
        """Look after the replicas from now on, until `close`."""
        self._tasks |= {asyncio.create_task(self._watch(replica)) for replica in self.replicas}

    def close(self) -> None:
        """In the event loop; replies under way break off."""
        self.closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.aclose()

    def status(self) -> ModelStatus:
        return ModelStatus("ready" if self._reachable else "unreachable")

    async def ready(self) -> str | None:
        if self._reachable:
            return None
        return f"no server behind {self.name} can be used: it {self.replicas[0].fault}"

    @property
    def _reachable(self) -> bool:
        return any(replica.fault is None for replica in self.replicas)

    async def prepare(self, request: ChatRequest) -> Prepared:
        return UpstreamReply(self, request)

    def choose(self, tried: list[Replica]) -> Replica | None:
        """The least busy of those that are well, else of the others: they may be back."""
        left = [replica for replica in self.replicas if replica not in tried]
        return min(left, key=lambda replica: (replica.fault is not None, replica.outstanding), default=None)

    def without_key(self, message: str) -> str:
        return message.replace(self._key, "...") if self._key else message

    async def _watch(self, replica: Replica) -> None:
        failures = 0
        while True:
            replica.fault = await self._check(replica)
            failures = failures + 1 if replica.fault else 0
            await asyncio.sleep(min(CHECK_AT_MOST, self._check_every * 2 ** max(0, failures - 1)))

    async def _check(self, replica: Replica) -> str | None:
        try:
            answer = await self.client.get(f"{replica.url}/models", timeout=CONNECT)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return "does not answer"
        if answer.status_code in OURS:
            return "does not accept this server's key"
        return f"answers {answer.status_code}" if answer.status_code >= 500 else None


class UpstreamReply:
    """A request that can begin; see `Prepared` in chat.py. One stream at a time."""

    def __init__(self, upstream: Upstream, request: ChatRequest) -> None:
        self._upstream = upstream
        self._path = path_of(request)
        self._body = body_of(request, upstream.config)
        self._samples = request.options.get("n") or 1
        self._tokens = TokenTable()
        self.token_bytes: Callable[[int], bytes] = self._tokens.spelled
        self.prompt_tokens = estimate(self._body)
        self.max_tokens = request.options.get("max_tokens") or MAX_TOKENS

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Tries one replica after the other until one answers; never another after that."""
        tried: list[Replica] = []
        while replica := self._upstream.choose(tried):
            tried.append(replica)
            with replica.busy():
                response = await self._send(replica)
                if response is None:
                    continue
                try:
                    if response.status_code != 200:
                        raise await self._refusal(response)
                    async with aclosing(self._events(response)) as events:
                        async for event in events:
                            yield event
                finally:
                    await response.aclose()
            return
        message = f"no server behind {self._upstream.name} answers; try again soon"
        raise ApiError(503, message, code="upstream_unavailable", retry_after=5)

    async def _send(self, replica: Replica) -> httpx2.Response | None:
        """The beginning of an answer; None where none came and another replica may be asked."""
        client = self._upstream.client
        request = client.build_request("POST", f"{replica.url}/{self._path}", json=self._body)
        try:
            response = await client.send(request, stream=True)
        except httpx2.ReadTimeout:
            raise self._silent() from None
        except (httpx2.TransportError, httpx2.InvalidURL):
            replica.fault = "does not answer"
            return None
        if response.status_code in AWAY:
            replica.fault = f"answers {response.status_code}"
            await response.aclose()
            return None
        replica.fault = None
        return response

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[Event, None]:
        reply, lines = Reply(self._samples, self._tokens, self.prompt_tokens), ServerSentEvents()
        try:
            async with aclosing(_data(response, lines)) as datas:
                async for data in datas:
                    for event in reply.chunk(data):
                        yield event
        except ToldError as told:
            raise self._told(told.error) from None
        except httpx2.ReadTimeout:
            raise self._silent() from None
        except (httpx2.TransportError, httpx2.DecodingError):
            raise broke_off("went away in the middle of the reply") from None
        for event in reply.end():
            yield event

    def _silent(self) -> ApiError:
        return broke_off(f"was silent for {self._upstream.silence:g} seconds")

    async def _refusal(self, response: httpx2.Response) -> ApiError:
        status = response.status_code
        if status in OURS:
            message = "the server behind this model does not accept this server's key or account; tell the operator"
            return ApiError(503, message, code="upstream_refused")
        if not 400 <= status < 500:
            return broke_off(f"answered {status}")
        seconds = response.headers.get("retry-after", "")
        return self._refused(status, await _error_of(response), float(seconds) if seconds.isdecimal() else None)

    def _told(self, error: object) -> ApiError:
        """Of an error in the stream; SGLang sends refusals so, with their status as code."""
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(error, dict) and isinstance(code, int) and 400 <= code < 500 and code not in OURS:
            return self._refused(code, error)
        return broke_off("failed in the middle of the reply")

    def _refused(self, status: int, error: Mapping[str, Any], retry_after: float | None = None) -> ApiError:
        message = error.get("message") or f"the server behind this model refuses the request ({status})"
        return ApiError(
            status,
            self._upstream.without_key(str(message)),
            param=_word(error.get("param")),
            code=_word(error.get("code")),
            retry_after=retry_after,
        )


async def _data(response: httpx2.Response, lines: ServerSentEvents) -> AsyncGenerator[str, None]:
    async for chunk in response.aiter_bytes():
        for data in lines.feed(chunk):
            if data.strip() == DONE:
                return
            yield data
    for data in lines.end():
        if data.strip() != DONE:
            yield data


async def _error_of(response: httpx2.Response) -> dict[str, Any]:
    """{"error": {...}} as OpenAI writes it, {"message": ...} as vLLM did, or {"detail": "..."}."""
    body = b""
    with suppress(httpx2.TransportError, httpx2.DecodingError):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > REFUSAL:
                break
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {}
    return {"message": document["detail"]} if isinstance(document.get("detail"), str) else error


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None

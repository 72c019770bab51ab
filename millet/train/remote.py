"""Another server as a teacher: questions to any server that speaks OpenAI's chat completions, replies from it.

What fails on the way is tried again, ever later; what the server refuses is not. A thought comes as `reasoning_content`
(DeepSeek), as `reasoning` (vLLM), or between <think> and </think> in the content, of which the first may be missing,
since some templates have it in the prompt.

Everything is in one thread: while replies are on their way the caller may work on those that came.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from millet.errors import BadRequest, MilletError
from millet.reasoning.format import CLOSE, OPEN
from millet.reasoning.reply import Reply, Usage
from millet.train.harvest import Numbered

SILENCE = 600.0  # seconds in which nothing comes: a long thought comes as a whole
CONNECT = 10.0
TRIES = 8  # of one question, the pauses before the last ones being the longest
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; each is twice the one before
AGAIN = frozenset((408, 409, 429))  # and all from 500 on
NOT_OURS = frozenset((401, 402, 403))
SHOWN = 200  # characters of a server's own words

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Asking:
    """replies: to each question. at_once: requests under way. max_tokens, temperature: of each reply."""

    replies: int
    at_once: int
    max_tokens: int
    temperature: float


class Remote:
    """A server. url: what comes before /chat/completions. model: its name there. key_env: the environment variable that
    has the key, "" where there is none; the key itself is kept nowhere.

    Raises BadRequest where the URL is none or the variable is not set.
    """

    def __init__(self, url: str, model: str, key_env: str, asking: Asking, first_pause: float = FIRST_PAUSE) -> None:
        check_url(url)
        self._place = url.rstrip("/")
        self._model, self._asking, self._first_pause = model, asking, first_pause
        self._key_env = key_env
        self._key = os.environ.get(key_env, "").strip() if key_env else ""
        if key_env and not (self._key and self._key.isascii()):
            raise BadRequest(f"{key_env}, where the teacher's key is to be, has none; set it, or leave key_env out")
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._answered = False
        self.refused = 0
        """Questions that the server would not answer, though it answered others."""

    def check(self) -> None:
        """Raises MilletError where nothing answers there, or the key is not accepted. It asks no question."""
        try:
            status = httpx2.get(f"{self._place}/models", headers=self._headers, timeout=CONNECT).status_code
        except httpx2.RequestError as error:
            raise self._away(error) from error
        if status in NOT_OURS:
            raise self._not_accepted(status)

    def answers(self, batches: Iterable[Numbered]) -> Iterator[tuple[int, list[list[Reply]]]]:
        """See `harvest.Answers`. Raises MilletError when the server is away or refuses, after those under way."""
        source = iter(batches)
        failure: BaseException | None = None
        running: set[asyncio.Task[tuple[int, list[list[Reply]]]]] = set()
        with asyncio.Runner() as runner:
            client = self._client()
            try:
                room = asyncio.Semaphore(self._asking.at_once)
                while True:
                    while failure is None and len(running) < self._asking.at_once:
                        if (batch := next(source, None)) is None:
                            break
                        running.add(runner.get_loop().create_task(self._batch(client, room, *batch)))
                    if not running:
                        break
                    finished, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                    for task in finished:
                        if (error := task.exception()) is None:
                            yield task.result()
                        else:
                            failure = failure or error
            finally:
                for task in running:
                    task.cancel()
                runner.run(client.aclose())
        if failure is not None:
            raise failure

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(SILENCE, connect=CONNECT, pool=None),
            limits=httpx2.Limits(max_connections=self._asking.at_once),
        )

    async def _batch(
        self, client: httpx2.AsyncClient, room: asyncio.Semaphore, number: int, questions: list[str]
    ) -> tuple[int, list[list[Reply]]]:
        async def one(question: str) -> Reply:
            async with room:
                return await self._reply(client, question)

        size = self._asking.replies
        asked = [one(each) for each in questions for _ in range(size)]
        found = await asyncio.gather(*asked, return_exceptions=True)  # all of them: others may be paid for already
        replies = [_or_raise(each) for each in found]
        return number, [replies[at : at + size] for at in range(0, len(replies), size)]

    async def _reply(self, client: httpx2.AsyncClient, question: str) -> Reply:
        for attempt in range(TRIES):
            wait = self._first_pause * 2**attempt
            try:
                response = await client.post(f"{self._place}/chat/completions", json=self._body(question))
            except httpx2.RequestError as error:
                if not self._answered:  # it never has: rather a wrong address than a server that will be back
                    raise self._away(error) from error
                fault = f"the teacher at {self._place} does not answer"
            else:
                if response.status_code < 400:
                    return self._read(response)
                if response.status_code not in AGAIN and response.status_code < 500:
                    return self._refusal(response)
                fault = f"the teacher at {self._place} answers {response.status_code}"
                wait = max(wait, _seconds(response.headers.get("retry-after", "")))
            if attempt + 1 < TRIES:
                await asyncio.sleep(min(wait, LONGEST_PAUSE) * random.uniform(0.75, 1.25))  # else all come back at once
        raise MilletError(f"{fault}, {TRIES} times; what was answered is kept: run the same command to go on")

    def _body(self, question: str) -> dict[str, Any]:
        openai = urlsplit(self._place).hostname == "api.openai.com"  # whose reasoning models refuse the older name
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "max_completion_tokens" if openai else "max_tokens": self._asking.max_tokens,
            "temperature": self._asking.temperature,
        }

    def _read(self, response: httpx2.Response) -> Reply:
        try:
            reply = read_completion(response.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MilletError(
                f"what {self._place}/chat/completions answers is no chat completion; check the recipe's teacher, whose "
                "URL often ends in /v1"
            ) from error
        self._answered = True
        return reply

    def _refusal(self, response: httpx2.Response) -> Reply:
        """An empty reply, where the server has answered others: it is this question that it does not like."""
        status = response.status_code
        if status in NOT_OURS:
            raise self._not_accepted(status)
        if status == 404:
            raise MilletError(
                f"the teacher at {self._place} has no model {self._model!r}, or no chat completions there (404); check "
                "teacher, whose URL often ends in /v1, and teacher_model"
            )
        if not self._answered:
            raise MilletError(f"the teacher at {self._place} refuses the question ({status}){self._said(response)}")
        self.refused += 1
        return Reply("", "", "refused", Usage())

    def _away(self, error: httpx2.RequestError) -> MilletError:
        what = "is silent" if isinstance(error, httpx2.TimeoutException) else "does not answer"
        return MilletError(f"the teacher at {self._place} {what}; start it, or check the recipe's teacher")

    def _not_accepted(self, status: int) -> MilletError:
        what = f"the key in {self._key_env}" if self._key_env else "requests without a key; name one in key_env"
        return MilletError(f"the teacher at {self._place} does not accept {what} ({status})")

    def _said(self, response: httpx2.Response) -> str:
        """The server's own words, without the key."""
        try:
            error = response.json()
            error = error.get("error", error)
            words = error if isinstance(error, str) else error.get("message", "")
        except (ValueError, AttributeError):
            return ""
        line = " ".join(str(words).split())[:SHOWN]
        line = line.replace(self._key, "...") if self._key else line
        return f": {line}" if line else ""


def is_url(teacher: str) -> bool:
    """Whether a teacher is a server."""
    return teacher.startswith(("http://", "https://"))


def check_url(url: str) -> None:
    """Raises BadRequest for what is no URL, and for one with a password in it, which files would keep."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
        parts = urlsplit("")
    if not known:
        raise BadRequest("the teacher's URL is none; write one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise BadRequest(
            "the teacher's URL has a password or a question mark in it, and recipes are kept in files; put the key "
            "into an environment variable and name that in key_env"
        )


def read_completion(completion: Mapping[str, Any]) -> Reply:
    """The reply of a chat completion. Raises ValueError, LookupError, TypeError, AttributeError where it is none."""
    choice = completion["choices"][0]
    message = choice["message"]
    content = message.get("content") or ""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    if not thought and (CLOSE in content or content.lstrip().startswith(OPEN)):
        before, _, content = content.partition(CLOSE)
        thought = before.strip().removeprefix(OPEN)
    usage = completion.get("usage") or {}
    return Reply(
        reasoning=thought.strip(),
        content=content.strip(),
        finish_reason=choice.get("finish_reason") or "stop",
        usage=Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)),
        thought_ended="model" if thought.strip() and content.strip() else None,
    )


def _or_raise(found: Reply | BaseException) -> Reply:
    if isinstance(found, BaseException):
        raise found
    return found


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header; 0 where it is none, or a date."""
    return float(retry_after) if retry_after.isdecimal() else 0.0

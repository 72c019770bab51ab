"""`python -m millet.bench.in_process`: requests to the engine without a server, in a process of their own.

The strongest rival that a server can have: one thread for all clients, told once a step whose reply has news.
"""

from __future__ import annotations

import queue
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from millet.bench.worker import answer_all, own_output
from millet.engine.engine import Engine
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.reasoning.run import Run


@dataclass(eq=False, slots=True)
class Client:
    """One client's requests, the next one first, and what came of the one under way."""

    requests: deque[Mapping[str, Any]]
    run: Run | None = None
    began: float = 0.0
    first_token: float | None = None
    text: str = ""
    replies: list[dict[str, Any]] = field(default_factory=list)


class Drive:
    """All clients' requests, each client's one after the other. In the replies, first_token is seconds from before the
    request was prepared to the first text, a thought's included."""

    def __init__(self, assistant: Assistant, scripts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        self.clients = [Client(deque(script)) for script in scripts]
        self._assistant = assistant
        self._news: deque[Client] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._woken = False

    def run(self) -> list[list[dict[str, Any]]]:
        for client in self.clients:
            self._next(client)
        while any(client.run for client in self.clients):
            self._bell.get()
            self._woken = False  # before the news is taken: whoever comes later rings again
            while self._news:
                self._take(self._news.popleft())
        return [client.replies for client in self.clients]

    def _next(self, client: Client) -> None:
        client.run = None
        if client.requests:
            request = client.requests.popleft()
            client.began, client.first_token, client.text = time.perf_counter(), None, ""
            prepared = self._assistant.prepare(request["messages"], **request["options"])
            client.run = prepared.start(lambda: self._tell(client))

    def _tell(self, client: Client) -> None:
        """The engine's thread."""
        self._news.append(client)
        if not self._woken:
            self._woken = True
            self._bell.put(None)

    def _take(self, client: Client) -> None:
        if client.run is None:  # told once more than there was to take
            return
        for event in client.run.poll():
            if event.text:
                if client.first_token is None:
                    client.first_token = time.perf_counter() - client.began
                client.text += event.text
            if event.usage is not None:
                first = time.perf_counter() - client.began if client.first_token is None else client.first_token
                told = {"first_token": first, "text": client.text, "tokens": event.usage.completion_tokens}
                client.replies.append(told)
        if client.run.done:
            self._next(client)


class InProcess:
    """The far end's commands."""

    def __init__(self) -> None:
        self._assistant: Assistant | None = None

    def do(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if command["do"] == "load":
            self._assistant = Assistant(Engine(load(command["model"]), max_batch=command["slots"]))
            return {"threads": torch.get_num_threads()}
        assert self._assistant is not None
        drive = Drive(self._assistant, command["scripts"])
        began, busy = time.perf_counter(), time.process_time()
        replies = drive.run()
        return {
            "replies": replies,
            "drive_seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - busy,
        }


if __name__ == "__main__":
    answer_all(sys.stdin, own_output(), InProcess().do)

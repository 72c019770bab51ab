"""A server on loopback that speaks OpenAI's chat completions, and fails as it is told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[str], dict[str, Any]]


class FakeTeacher:
    """say: a question to the message that answers it. faults: what befalls requests, one after the other, before all
    goes well: a status, "drop" (the connection ends), or bytes that are sent as they are. faulty: what befalls one
    question, every time."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.faults: list[int | str | bytes] = []
        self.faulty: dict[str, int] = {}
        self.models = 200
        """The status of its list of models."""
        self.asked: Counter[str] = Counter()
        """How often each question was answered."""
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.most = 0
        """Requests under way at once, at most."""
        self.gate: threading.Barrier | None = None
        """Where requests wait for each other."""
        self.on_answer: Callable[[int], None] = lambda count: None
        """Told how many were answered, one after the other."""
        self.url = ""
        self._lock = threading.Lock()
        self._under_way = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL, as a recipe has it."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            yield self.url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(fake.models, b"{}")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake._lock:
                    fake._under_way += 1
                    fake.most = max(fake.most, fake._under_way)
                try:
                    self._answer(body)
                finally:
                    with fake._lock:
                        fake._under_way -= 1

            def _answer(self, body: dict[str, Any]) -> None:
                if fake.gate is not None:
                    fake.gate.wait(30)
                question = body["messages"][-1]["content"]
                with fake._lock:
                    fake.bodies.append(body)
                    fake.keys.add(self.headers.get("authorization"))
                    fault = fake.faults.pop(0) if fake.faults else fake.faulty.get(question)
                if self.path != "/v1/chat/completions":
                    fault = 404
                if fault == "drop":
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    # A server may say the key again, as OpenAI's does.
                    said = f"no: {self.headers.get('authorization')}\nbecause"
                    self._send(fault, json.dumps({"error": {"message": said}}).encode())
                elif isinstance(fault, bytes):
                    self._send(200, fault)
                else:
                    choice = {"index": 0, "finish_reason": "stop", "message": fake.say(question)}
                    usage = {"prompt_tokens": 9, "completion_tokens": 7}
                    with fake._lock:
                        fake.asked[question] += 1
                        fake.on_answer(sum(fake.asked.values()))
                    self._send(200, json.dumps({"choices": [choice], "usage": usage}).encode())

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None: ...

        return Handler


def adds(question: str) -> dict[str, Any]:
    """A teacher that is right about "What is A + B?"."""
    a, b = (int(word.strip("?")) for word in question.split() if word.strip("?").isdigit())
    thought, content = f"{a} and {b} make {a + b}.", f"The answer is {a + b}."
    return {"role": "assistant", "reasoning_content": thought, "content": content}

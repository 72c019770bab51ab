"""`millet bench serve`: what the server costs, over the same requests to the engine in process, and with idle streams.

Served and in process take turns, and change places from round to round. The requests are the same with the same seeds,
so that both generate the very same tokens; prompts differ between rounds, so that no prefix cache knows them. The load
runs in this process and takes its share of the same processor, which is why its processor time stands beside.
"""

from __future__ import annotations

import asyncio
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from millet.bench.fidelity import texts
from millet.bench.idle_streams import measure_idle_streams
from millet.bench.load import Exchange, drive, percentile, post, told
from millet.bench.server_process import ServerProcess
from millet.bench.worker import Worker
from millet.kernels.cpu import read_cpu
from millet.serve.embedded import served_name

MAX_TOKENS = 128
REQUESTS = {1: 4, 8: 3}
"""How many each client sends in a round, by clients; others send 2."""

SLOTS = 32  # replies computed at once, unless more clients come

Say = Callable[[str], None]
Request = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What one side has shown at one number of clients. tokens_per_second: of each round; first_token: seconds, of each
    reply; client_cpu: of this process, where the load comes from here."""

    tokens_per_second: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    client_cpu_seconds: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, seconds: float, replies: Sequence[tuple[float, str, int]], cpu: float, client_cpu: float) -> None:
        """replies: seconds to the first token, text, tokens."""
        self.tokens_per_second.append(sum(tokens for _, _, tokens in replies) / seconds)
        self.first_token += [first for first, _, _ in replies]
        self.texts += [text for _, text, _ in replies]
        self.tokens += [tokens for _, _, tokens in replies]
        self.cpu_seconds.append(cpu)
        self.client_cpu_seconds.append(client_cpu)

    def report(self) -> dict[str, Any]:
        return {
            "tokens_per_second": median(self.tokens_per_second),
            "tokens_per_second_by_round": self.tokens_per_second,
            "first_token_seconds": {"median": median(self.first_token), "p99": percentile(self.first_token, 0.99)},
            "cpu_seconds": median(self.cpu_seconds),
            "client_cpu_seconds": median(self.client_cpu_seconds),
        }


def bench_serve(
    model: str,
    *,
    rounds: int = 5,
    clients: Sequence[int] = (1, 8, 32),
    streams: int = 1000,
    threads: int | None = None,
    max_tokens: int = MAX_TOKENS,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Time to first token and tokens/s by number of clients, served and in process; then, with an engine that costs
    nothing, small requests without and with `streams` idle streams open, and the memory of one. 0 leaves either out.

    The model must be on this machine. The report is ready for JSON. Raises MilletError when a server fails.
    """
    threads = threads or torch.get_num_threads()
    cpu = read_cpu()
    packages = {name: version(name) for name in ("torch", "uvicorn", "fastapi", "starlette")}
    report: dict[str, Any] = {
        "model": model,
        "cpu": {"name": cpu.name, "cores": cpu.cores},
        "threads": threads,
        "versions": {"python": platform.python_version(), **packages},
        "rounds": rounds,
        "max_tokens": max_tokens,
        "clients": {},
        "idle_streams": None,
    }
    if clients:
        report["clients"] = _with_model(model, rounds, clients, threads, max_tokens, say)
    if streams:
        report["idle_streams"] = measure_idle_streams(streams, rounds, threads, say)
    return report


def _with_model(
    model: str, rounds: int, clients: Sequence[int], threads: int, max_tokens: int, say: Say
) -> dict[str, Any]:
    slots = max(SLOTS, *clients)
    sides = ("in_process", "served")
    tallies = {count: {side: Tally() for side in sides} for count in clients}
    with ExitStack() as stack:
        say("loading the model in process")
        worker = stack.enter_context(Worker("in process", threads, "millet.bench.in_process"))
        worker.call("load", model=model, slots=slots)
        say("starting the server")
        server = stack.enter_context(_server(model, slots, threads, stack))
        for number in range(-1, rounds):
            for count in clients:
                scripts = _scripts(count, number, max_tokens)
                if number < 0:  # once for warming up, and not counted
                    scripts = [script[:1] for script in scripts]
                for side in sides if number % 2 else reversed(sides):
                    say(f"round {number + 1} of {rounds}: {count} clients, {side.replace('_', ' ')}")
                    tally = tallies[count][side] if number >= 0 else Tally()
                    if side == "in_process":
                        _in_process(worker, scripts, tally)
                    else:
                        _served(server, model, scripts, tally)
    return {str(count): _compared(count, **tallies[count]) for count in clients}


def _server(model: str, slots: int, threads: int, stack: ExitStack) -> ServerProcess:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    settings = folder / "serve.toml"
    settings.write_text(f"slots = {slots}\nmetrics_port = 0\n")
    words = ["millet.cli.main", "serve", "--model", model, "--port", "0", "--no-browser"]
    words += ["--config", str(settings), "--database", f"sqlite:///{folder / 'millet.db'}"]
    return ServerProcess(words, threads)


def _scripts(count: int, number: int, max_tokens: int) -> list[list[Request]]:
    """What each client asks for in a round, one after the other."""
    beginnings = texts()
    requests = REQUESTS.get(count, 2)
    return [
        [
            _request(beginnings[(client + turn) % len(beginnings)], f"{count}/{number}/{client}/{turn}", max_tokens)
            for turn in range(requests)
        ]
        for client in range(count)
    ]


def _request(beginning: str, name: str, max_tokens: int) -> Request:
    """The name comes first in the prompt, so that none begins as another."""
    content = f"Text {name}: {beginning.strip()}\n\nGo on with this text, at length."
    return {
        "messages": [{"role": "user", "content": content}],
        "options": {"max_tokens": max_tokens, "temperature": 0.8, "seed": sum(name.encode())},
    }


def _in_process(worker: Worker, scripts: Sequence[Sequence[Request]], tally: Tally) -> None:
    asked = [
        [request | {"options": request["options"] | {"think": "on"}} for request in script] for script in scripts
    ]  # as a server does unless told otherwise
    answer = worker.call("drive", scripts=asked)
    replies = [(reply["first_token"], reply["text"], reply["tokens"]) for made in answer["replies"] for reply in made]
    tally.add(answer["drive_seconds"], replies, answer["cpu_seconds"], 0.0)


def _served(server: ServerProcess, model: str, scripts: Sequence[Sequence[Request]], tally: Tally) -> None:
    name = served_name(model)
    requests = [
        [post({"model": name, "messages": one["messages"], "stream": True, **one["options"]}) for one in script]
        for script in scripts
    ]
    exchanges, seconds, cpu, client_cpu = asyncio.run(_driven(server, requests))
    replies = []
    for exchange in exchanges:
        said = told(exchange.raw)
        replies.append((exchange.first_token or exchange.seconds, said.text, said.tokens))
    tally.add(seconds, replies, cpu, client_cpu)


async def _driven(
    server: ServerProcess, requests: Sequence[Sequence[bytes]]
) -> tuple[list[Exchange], float, float, float]:
    """All exchanges, and the seconds they took: by the clock, of the server's processor time, of this process's."""
    before, busy, began = server.cpu_seconds(), time.process_time(), time.perf_counter()
    made = await drive(server.port, requests)
    seconds, busy, after = time.perf_counter() - began, time.process_time() - busy, server.cpu_seconds()
    return [one for exchanges in made for one in exchanges], seconds, after - before, busy


def _compared(count: int, in_process: Tally, served: Tally) -> dict[str, Any]:
    """ratio: of tokens/s, served to in process, each round's with its own neighbour; lost: what is missing to 1."""
    pairs = zip(served.tokens_per_second, in_process.tokens_per_second, strict=True)
    ratio = median(ours / theirs for ours, theirs in pairs)
    same = sum(map(str.__eq__, served.texts, in_process.texts)) / len(served.texts)
    first = {side: median(tally.first_token) for side, tally in (("served", served), ("in_process", in_process))}
    return {
        "requests_per_round": count * REQUESTS.get(count, 2),
        "tokens": sum(served.tokens),
        "same_text": same,
        "served": served.report(),
        "in_process": in_process.report(),
        "ratio": ratio,
        "lost": 1 - ratio,
        "first_token_ratio": first["served"] / first["in_process"],
    }

"""Small requests to a server that also holds many idle streams open, with an engine that costs nothing (stub.py)."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from millet.bench.load import Connection, drive, percentile, post
from millet.bench.server_process import ServerProcess
from millet.errors import BadRequest, MilletError

CONCURRENCY = 8
REQUESTS = 100  # of each client, in each round
AT_ONCE = 32  # streams that are being opened together
SPARE = 128  # files that either process has open beside its connections
SETTLE = 2.0  # seconds after opening, for every stream to have spoken again

SMALL = post({"model": "instant", "messages": [{"role": "user", "content": "Hi"}]})
LASTING = post({"model": "endless", "messages": [{"role": "user", "content": "Hi"}], "stream": True})


def measure_idle_streams(streams: int, rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """requests/s and latency of small whole replies with no stream open and with all, and bytes of memory that each
    stream takes of the server. Raises BadRequest where the system allows too few open files."""
    with _open_files(streams + CONCURRENCY + SPARE):
        say("starting a server without a model")
        with ServerProcess(["millet.bench.stub", str(streams)], threads) as server:
            return asyncio.run(_measured(server, streams, rounds, say))


@contextmanager
def _open_files(needed: int) -> Iterator[None]:
    """Allow this process, and those that it starts, so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BadRequest(f"this needs {needed} open files and the system allows {hard}; take fewer --streams")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _measured(server: ServerProcess, streams: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    say("small requests, without streams")
    await _small(server)  # once for warming up, and not counted
    without = [await _small(server) for _ in range(rounds)]
    before = server.resident_bytes()
    opened: list[Connection] = []
    try:
        began = time.perf_counter()
        while len(opened) < streams:
            say(f"opening streams: {len(opened)} of {streams}")
            some = [await Connection.open(server.port) for _ in range(min(AT_ONCE, streams - len(opened)))]
            opened += some
            await asyncio.gather(*(connection.idle(LASTING) for connection in some))
        seconds = time.perf_counter() - began
        await asyncio.sleep(SETTLE)
        after, busy, began = server.resident_bytes(), server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(SETTLE)
        load = (server.cpu_seconds() - busy) / (time.perf_counter() - began)
        say(f"small requests, with {streams} streams")
        beside = [await _small(server) for _ in range(rounds)]
        lost = sum(connection.lost for connection in opened)
    finally:
        for connection in opened:
            connection.close()
    if lost:
        raise MilletError(f"{lost} of {streams} streams broke off while they were to stay open")
    return {
        "streams": streams,
        "concurrency": CONCURRENCY,
        "requests_per_round": CONCURRENCY * REQUESTS,
        "opened_per_second": streams / seconds,
        "cores_busy_with_streams": load,
        "bytes_per_stream": (after - before) / streams,
        "without_streams": _summary(without),
        "with_streams": _summary(beside),
    }


async def _small(server: ServerProcess) -> tuple[float, list[float]]:
    """requests/s, and the seconds of each."""
    began = time.perf_counter()
    made = await drive(server.port, [[SMALL] * REQUESTS] * CONCURRENCY)
    seconds = time.perf_counter() - began
    return CONCURRENCY * REQUESTS / seconds, [one.seconds for exchanges in made for one in exchanges]


def _summary(rounds: Sequence[tuple[float, Sequence[float]]]) -> dict[str, float]:
    latencies = [seconds for _, made in rounds for seconds in made]
    return {
        "requests_per_second": median(speed for speed, _ in rounds),
        "p50_seconds": percentile(latencies, 0.5),
        "p99_seconds": percentile(latencies, 0.99),
    }

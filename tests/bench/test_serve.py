"""The benchmark of the server: its clients, its stub, and both sides on the real model, at their smallest."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millet.bench import serve as bench
from millet.bench.idle_streams import SMALL, measure_idle_streams
from millet.bench.load import Connection, body_of, drive, percentile, post, told
from millet.bench.server_process import ServerProcess
from millet.bench.worker import Worker
from millet.cli.bench import app, parse_clients
from millet.errors import BadRequest, MilletError

ASK: dict[str, Any] = {"model": "instant", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def stub() -> Iterator[ServerProcess]:
    with ServerProcess(["millet.bench.stub", "4"], threads=1) as server:
        yield server


def test_percentiles_are_values_that_were_there() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.6, 0.99, 1.0)] == [1.0, 3.0, 3.0, 5.0, 5.0]
    assert percentile(list(map(float, range(1, 201))), 0.99) == 198.0


def test_a_chunked_body_is_put_together() -> None:
    raw = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n3\r\nab\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
    assert body_of(raw) == b"ab\n0123456789"


def test_what_a_stream_told() -> None:
    chunks = [
        {"choices": [{"delta": {"role": "assistant", "content": "", "reasoning_content": None}}]},
        {"choices": [{"delta": {"content": None, "reasoning_content": "So: ", "reasoning": "So: "}}]},
        {"choices": [{"delta": {"content": "data: 7"}}]},
        {"choices": [{"delta": {}}], "usage": {"completion_tokens": 9}},
    ]
    events = ": keep-alive\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    raw = f"HTTP/1.1 200 OK\r\n\r\n{len(events):x}\r\n{events}\r\n0\r\n\r\n".encode()
    said = told(raw)
    assert (said.text, said.tokens) == ("So: data: 7", 9)


def test_clients_send_one_request_after_the_other(stub: ServerProcess) -> None:
    request = post(ASK | {"stream": True})
    made = asyncio.run(drive(stub.port, [[request] * 3, [request], [SMALL]]))
    assert [len(exchanges) for exchanges in made] == [3, 1, 1]
    for streamed in (*made[0], *made[1]):
        assert told(streamed.raw).tokens == 16
        assert told(streamed.raw).text.split() == [f"word{number}" for number in range(16)]
        assert 0 < streamed.first_token <= streamed.seconds
    assert json.loads(body_of(made[2][0].raw))["usage"]["completion_tokens"] == 16


def test_a_refusal_is_told(stub: ServerProcess) -> None:
    with pytest.raises(MilletError, match="no such model"):
        asyncio.run(drive(stub.port, [[post(ASK | {"model": "other"})], [SMALL]]))


def test_an_idle_stream_stays_open(stub: ServerProcess) -> None:
    async def check() -> None:
        idle = await Connection.open(stub.port)
        try:
            await idle.idle(post(ASK | {"model": "endless", "stream": True}))
            await drive(stub.port, [[SMALL]])
            assert not idle.lost
        finally:
            idle.close()

    asyncio.run(check())


def test_a_server_that_ends_says_why() -> None:
    with pytest.raises(MilletError, match="IndexError"):
        ServerProcess(["millet.bench.stub"], threads=1)


def test_what_idle_streams_cost() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    said: list[str] = []
    report = measure_idle_streams(6, 1, 1, said.append)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert report["streams"] == 6
    assert report["without_streams"]["requests_per_second"] > 0
    assert 0 < report["with_streams"]["p50_seconds"] <= report["with_streams"]["p99_seconds"]
    assert said


def test_too_many_streams_for_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 100))
    with pytest.raises(BadRequest, match="--streams"):
        measure_idle_streams(1000, 1, 1, print)


def test_both_sides_generate_the_same(smollm2_path: Path) -> None:
    report = bench.bench_serve(str(smollm2_path), rounds=1, clients=[2], streams=0, max_tokens=12)
    found = report["clients"]["2"]
    assert found["same_text"] == 1.0
    assert 0 < found["tokens"] <= 4 * 12
    assert found["ratio"] == pytest.approx(1 - found["lost"])
    for side in ("served", "in_process"):
        assert found[side]["tokens_per_second"] > 0
        assert 0 < found[side]["first_token_seconds"]["median"] <= found[side]["first_token_seconds"]["p99"]
    assert json.loads(json.dumps(report)) == report


def test_a_far_end_that_fails_says_why() -> None:
    with Worker("in process", 1, "millet.bench.in_process") as worker, pytest.raises(MilletError, match="no-such"):
        worker.call("load", model="no-such", slots=1)


def test_no_prompt_begins_as_another() -> None:
    scripts = [bench._scripts(count, number, 8) for count in (1, 8) for number in (0, 1)]
    contents = [one["messages"][0]["content"] for made in scripts for script in made for one in script]
    heads = {content.partition(":")[0] for content in contents}
    assert len(heads) == len(contents) == 2 * 4 + 2 * 8 * 3


def side(speed: float) -> dict[str, Any]:
    return {
        "tokens_per_second": speed,
        "first_token_seconds": {"median": 0.05, "p99": 0.1234},
        "cpu_seconds": 3.0,
        "client_cpu_seconds": 0.25,
    }


REPORT: dict[str, Any] = {
    "model": "m",
    "cpu": {"name": "a chip", "cores": 2},
    "threads": 2,
    "versions": {"python": "3"},
    "rounds": 3,
    "clients": {
        "8": {"served": side(95.0), "in_process": side(100.0), "ratio": 0.95, "lost": 0.05, "same_text": 1.0},
    },
    "idle_streams": {
        "streams": 1000,
        "bytes_per_stream": 42_500.0,
        "cores_busy_with_streams": 0.2,
        "opened_per_second": 300.0,
        "without_streams": {"requests_per_second": 900.0, "p50_seconds": 0.008, "p99_seconds": 0.02},
        "with_streams": {"requests_per_second": 700.0, "p50_seconds": 0.01, "p99_seconds": 0.03},
    },
}


def test_the_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch, smollm2_path: Path) -> None:
    asked: dict[str, Any] = {}

    def fake(model: str, **options: Any) -> dict[str, Any]:
        asked.update(options)
        return REPORT

    monkeypatch.setattr(bench, "bench_serve", fake)
    words = ["serve", "--model", os.fspath(smollm2_path), "--clients", "8", "--rounds", "3", "--streams", "10"]
    lines = [line.split() for line in CliRunner().invoke(app, words, catch_exceptions=False).stdout.splitlines()]
    assert asked["clients"] == [8]
    assert (asked["rounds"], asked["streams"]) == (3, 10)
    row = next(line for line in lines if line[:1] == ["8"])
    assert row[1:5] == ["95.0", "100.0", "0.950x", "5.0%"]
    assert ["1000", "700", "10.0", "ms", "30.0", "ms"] in lines
    printed = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout
    assert json.loads(printed) == REPORT


@pytest.mark.parametrize("text", ["x", "0", "1,-2", "1000", "1.5"])
def test_clients_are_small_whole_numbers(text: str) -> None:
    assert parse_clients("8, 1,8") == [8, 1]
    assert parse_clients("none") == []
    with pytest.raises(BadRequest, match="--clients"):
        parse_clients(text)

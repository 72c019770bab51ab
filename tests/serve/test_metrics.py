"""What Prometheus reads: the right figures, under bounded labels."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from millet.errors import MilletError
from millet.reasoning.reply import Usage
from millet.serve.errors import ApiError
from millet.serve.metrics import Metrics, refusal_cause, serve_metrics

MARKER = "zebra-3141592"


def metrics() -> Metrics:
    return Metrics({"tiny", "far"}, {"/v1/models", "/v1/models/{name}"})


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and the values of the labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_figures_of_replies() -> None:
    watched = metrics()
    watched.first_token("tiny", 0.2)
    watched.waited(0.03)
    watched.reply("tiny", Usage(100, 40, 30, 25), 2.0)
    watched.reply("tiny", Usage(100, 20, 0, 75), 4.0)
    got = samples(watched.text().decode())
    assert got["millet_input_tokens_total", ("tiny",)] == 200
    assert got["millet_cached_tokens_total", ("tiny",)] == 100
    assert got["millet_output_tokens_total", ("tiny",)] == 60
    assert got["millet_reasoning_tokens_total", ("tiny",)] == 30
    assert got["millet_cache_hit_ratio", ("tiny",)] == 0.5
    assert got["millet_reply_tokens_per_second_sum", ("tiny",)] == 25
    assert got["millet_reply_tokens_per_second_count", ("tiny",)] == 2
    assert got["millet_time_to_first_token_seconds_sum", ("tiny",)] == 0.2
    assert got["millet_queue_wait_seconds_sum", ()] == 0.03


def test_gauges_are_read_when_asked_for() -> None:
    watched, state = metrics(), {"waiting": 3, "running": 2, "batch": 1}
    watched.watch(waiting=lambda: state["waiting"], running=lambda: state["running"])
    watched.watch_batch("tiny", lambda: state["batch"])
    state["waiting"] = 5
    got = samples(watched.text().decode())
    assert got["millet_queue_length", ()] == 5
    assert got["millet_running", ()] == 2
    assert got["millet_engine_batch_size", ("tiny",)] == 1
    assert ("millet_engine_batch_size", ("far",)) not in got


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (429, "concurrency", "limit"),
        (429, "queue_share", "queue"),
        (413, "tokens_per_minute", "limit"),
        (413, None, "bad_request"),
        (503, "queue_full", "queue"),
        (503, "model_not_ready", "unavailable"),
        (402, "balance", "balance"),
        (401, None, "auth"),
        (403, None, "auth"),
        (400, "context_length_exceeded", "bad_request"),
        (422, None, "bad_request"),
        (500, "internal_error", "error"),
    ],
)
def test_refusals_by_cause(status: int, code: str | None, cause: str) -> None:
    watched, error = metrics(), ApiError(status, MARKER, param=MARKER, code=code)
    assert refusal_cause(error) == cause
    watched.refused(error)
    got = samples(watched.text().decode())
    assert {labels[0]: value for (name, labels), value in got.items() if name == "millet_refusals_total" and value} == {
        cause: 1
    }


def test_labels_are_bounded() -> None:
    watched = metrics()
    watched.request("/v1/models", 200)
    watched.request("/v1/models/{name}", 404)
    for number in range(50):
        watched.request(f"/{MARKER}/{number}", 404)
        watched.request(None, 404)
        watched.first_token(f"{MARKER}{number}", 1.0)
        watched.reply(f"{MARKER}{number}", Usage(1, 1), 1.0)
        watched.refused(ApiError(422, MARKER, param=MARKER, code=MARKER))
    text = watched.text().decode()
    assert MARKER not in text
    got = samples(text)
    requests = {labels: value for (name, labels), value in got.items() if name == "millet_requests_total"}
    assert requests == {("/v1/models", "200"): 1, ("/v1/models/{name}", "404"): 1, ("other", "404"): 100}
    assert got["millet_output_tokens_total", ("other",)] == 50


def test_served_on_a_port_of_its_own_until_the_end() -> None:
    watched = metrics()
    watched.request("/v1/models", 200)
    with serve_metrics(watched, 0) as port:
        address = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert samples(answer.read().decode())["millet_requests_total", ("/v1/models", "200")] == 1
        with pytest.raises(MilletError, match=f"127.0.0.1:{port} .*metrics_port"), serve_metrics(metrics(), port):
            pass
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)

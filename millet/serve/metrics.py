"""Figures for Prometheus, on a port of their own.

Labels take few values: models and routes that exist, statuses, causes. What a client sent, whose key it was and which
account it is never becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from millet.errors import MilletError
from millet.reasoning.reply import Usage
from millet.serve.errors import ApiError

__all__ = ["CONTENT_TYPE_LATEST", "Cause", "Metrics", "refusal_cause", "serve_metrics"]

Cause = Literal["limit", "queue", "balance", "auth", "bad_request", "unavailable", "error"]

OTHER = "other"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATES = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)  # tokens per second


def refusal_cause(error: ApiError) -> Cause:
    """Why a request was refused, in a word. "unavailable": a model or upstream is not there; "error": a bug."""
    match error.status, error.code:
        case (429, "queue_share") | (503, "queue_full"):
            return "queue"
        case (429, _) | (_, "tokens_per_minute"):
            return "limit"
        case 402, _:
            return "balance"
        case ((401 | 403), _):
            return "auth"
        case 503, _:
            return "unavailable"
        case status, _:
            return "error" if status >= 500 else "bad_request"


class Metrics:
    """models, routes: the names that may be labels (a live view is fine); everything else counts as "other"."""

    def __init__(self, models: Container[str], routes: Container[str]) -> None:
        self.registry = registry = CollectorRegistry()
        self._models, self._routes = models, routes
        self._requests = Counter("millet_requests", "Requests answered", ["route", "status"], registry=registry)
        self._refusals = Counter("millet_refusals", "Requests refused", ["cause"], registry=registry)
        self._first_token = Histogram(
            "millet_time_to_first_token_seconds",
            "From the request to the first token of its reply, the queue included",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._rate = Histogram(
            "millet_reply_tokens_per_second",
            "Tokens of a reply over the seconds from its turn to its end",
            ["model"],
            buckets=RATES,
            registry=registry,
        )
        self._wait = Histogram(
            "millet_queue_wait_seconds", "From the request to its turn", buckets=SECONDS, registry=registry
        )
        self._tokens = {
            kind: Counter(f"millet_{kind}_tokens", text, ["model"], registry=registry)
            for kind, text in (
                ("input", "Tokens of prompts"),
                ("cached", "Tokens of prompts that had not to be computed again"),
                ("output", "Tokens generated, thoughts included"),
                ("reasoning", "Tokens generated for thoughts"),
            )
        }
        self._share = Gauge(
            "millet_cache_hit_ratio", "Cached over input tokens, since the start", ["model"], registry=registry
        )
        self._totals: dict[str, tuple[int, int]] = {}
        self._waiting = Gauge("millet_queue_length", "Requests that wait", registry=registry)
        self._running = Gauge("millet_running", "Sequences that run", registry=registry)
        self._batch = Gauge("millet_engine_batch_size", "Sequences in the engine's batch", ["model"], registry=registry)
        for cause in get_args(Cause):  # a rate needs a zero to start from
            self._refusals.labels(cause)
        ProcessCollector(registry=registry)

    def watch(self, *, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Read these whenever somebody asks for the figures, in another thread."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)

    def watch_batch(self, model: str, batch: Callable[[], float]) -> None:
        """The same for the batch of an engine in this process."""
        self._batch.labels(self._model(model)).set_function(batch)

    def request(self, route: str | None, status: int) -> None:
        """An answer went out. route: its template, such as /v1/models/{name}; None where no route matched."""
        self._requests.labels(route if route in self._routes else OTHER, str(status)).inc()

    def refused(self, error: ApiError) -> None:
        self._refusals.labels(refusal_cause(error)).inc()

    def waited(self, seconds: float) -> None:
        self._wait.observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        self._first_token.labels(self._model(model)).observe(seconds)

    def reply(self, model: str, usage: Usage, seconds: float) -> None:
        """A reply ended. usage: of all its samples together. seconds: from its turn to its end."""
        name = self._model(model)
        self._tokens["input"].labels(name).inc(usage.prompt_tokens)
        self._tokens["cached"].labels(name).inc(usage.cached_tokens)
        self._tokens["output"].labels(name).inc(usage.completion_tokens)
        self._tokens["reasoning"].labels(name).inc(usage.reasoning_tokens)
        if seconds > 0 and usage.completion_tokens:
            self._rate.labels(name).observe(usage.completion_tokens / seconds)
        cached, prompts = self._totals.get(name, (0, 0))
        cached, prompts = cached + usage.cached_tokens, prompts + usage.prompt_tokens
        self._totals[name] = cached, prompts
        if prompts:
            self._share.labels(name).set(cached / prompts)

    def text(self) -> bytes:
        """What Prometheus reads, of type CONTENT_TYPE_LATEST."""
        return generate_latest(self.registry)

    def _model(self, model: str) -> str:
        return model if model in self._models else OTHER


@contextmanager
def serve_metrics(metrics: Metrics, port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Answer on this port, from a thread of its own, until the block ends. Gives the port, which 0 leaves to the
    system. Raises MilletError where the port is taken."""
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except (OSError, OverflowError) as error:  # the port after the last one
        reason = getattr(error, "strerror", None) or str(error)
        raise MilletError(
            f"metrics cannot be served on {host}:{port} ({reason}); set metrics_port in serve.toml to another, or to 0"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""`millet bench grpo`: steps of reinforcement learning, Millet's trainer and its peers by turns on the same questions.

A step samples replies to questions, judges them, and learns from all of them. Replies are drawn, so contenders do not
have the very same ones; the report says how many tokens each had. "Of the roof" holds the arithmetic that a step of
Millet's cannot do without against what this machine's matrix products have been measured to reach in the same run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from millet.bench.grpo_worker import PARTS
from millet.bench.report import heading
from millet.bench.stories import Stories
from millet.bench.worker import Worker
from millet.errors import BadRequest
from millet.kernels.roof import measure_roof
from millet.models.config import ModelConfig
from millet.models.load import load
from millet.tasks.draw import draw

PEERS = ("trl",)
QUESTIONS, REPLIES, MAX_TOKENS = 4, 8, 64

Say = Callable[[str], None]


def bench_grpo(
    model: str,
    *,
    peers: Sequence[str] = PEERS,
    rounds: int = 3,
    threads: int | None = None,
    questions: int = QUESTIONS,
    replies: int = REPLIES,
    max_tokens: int = MAX_TOKENS,
    sampler: Literal["fp32", "q8"] = "fp32",
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Seconds a step with all weights and with an adapter, medians over rounds, their parts, and peak memory.

    sampler: the weights that Millet samples with. Raises MilletError when a peer is not installed, BadRequest for one
    that is not known.
    """
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise BadRequest(f"the peer {unknown[0]!r} is unknown; use {', '.join(PEERS)}")
    threads = threads or torch.get_num_threads()
    shape = {
        "steps": rounds + 1,
        "questions": questions,
        "replies": replies,
        "max_tokens": max_tokens,
        "sampler": sampler,
    }
    report = heading(model, threads, rounds) | {"shape": shape}
    with tempfile.TemporaryDirectory() as folder:
        say("preparing the model")
        loaded = load(model, dtype="float32")
        loaded.save(Path(folder) / "model")
        turns = _Turns(model, Path(folder) / "model", loaded.config, ["millet", *peers], threads, shape, say)
        del loaded
        for kind in ("full", "lora"):
            report[kind] = turns.take(kind)
        report["versions"] |= turns.versions
    return report


def useful_flops(config: ModelConfig, prompts: int, replies: int, lora: bool) -> float:
    """Multiplications and additions of a step in which nothing is computed twice: replies sampled; then forward,
    gradients of what goes in and, in full training, of weights. Attention, and an adapter's own products, are left out
    as small.

    prompts: tokens of all questions together, each counted once. replies: of these, what a group says alike once.
    """
    head = config.vocab_size * config.hidden_size
    inside = config.num_parameters - (head if config.tie_word_embeddings else 2 * head)
    return float((2 + (4 if lora else 6)) * (inside * (prompts + replies) + head * replies))


class _Turns:
    def __init__(
        self,
        model: str,
        unpacked: Path,
        config: ModelConfig,
        names: Sequence[str],
        threads: int,
        shape: dict[str, Any],
        say: Say,
    ) -> None:
        """unpacked: the same model as an fp32 directory, which peers read."""
        self.versions: dict[str, str] = {}
        self._model, self._unpacked, self._config, self._names = model, unpacked, config, names
        self._threads, self._shape, self._say = threads, shape, say
        count = shape["steps"] * shape["questions"]
        self._prompts = [draw(Stories(), "train", 0, index).prompt for index in range(count)]

    def take(self, kind: str) -> dict[str, Any]:
        """All rounds with all weights ("full") or an adapter ("lora"). The first step warms up."""
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in self._names}
        shares: list[float] = []
        with ExitStack() as stack:
            workers = {name: stack.enter_context(self._start(name, kind)) for name in self._names}
            for number in range(self._shape["steps"]):
                roof = measure_roof().fp32
                for name in self._names if number % 2 else reversed(self._names):
                    self._say(f"{kind}: step {number} of {self._shape['steps'] - 1}, {name}")
                    answers[name].append(workers[name].call("step"))
                shares.append(self._share(answers["millet"][-1], kind, roof))
        found: dict[str, Any] = {name: _summary(given) for name, given in answers.items()}
        found["of_the_roof"] = median(shares[1:])
        own = found["millet"]
        peers = {name: found[name] for name in self._names if name != "millet"}
        found["ratios"] = {
            name: median(b / a for a, b in zip(own["seconds_by_round"], peer["seconds_by_round"], strict=True))
            for name, peer in peers.items()
        }
        found["memory_ratios"] = {name: own["peak_bytes"] / peer["peak_bytes"] for name, peer in peers.items()}
        return found

    def _start(self, name: str, kind: str) -> Worker:
        self._say(f"{kind}: starting {name}")
        worker = Worker(name, self._threads, "millet.bench.grpo_worker", trains=name == "millet")
        model = self._model if name == "millet" else str(self._unpacked)
        started = worker.call("start", model=model, prompts=self._prompts, lora=kind == "lora", shape=self._shape)
        self.versions |= started["versions"]
        return worker

    def _share(self, answer: dict[str, Any], kind: str, roof: float) -> float:
        prompts = answer["prompt_tokens"] // self._shape["replies"]
        flops = useful_flops(self._config, prompts, answer["distinct_tokens"] - prompts, kind == "lora")
        return flops / answer["seconds"] / 1e9 / roof


def _summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    measured = answers[1:]
    return {
        "seconds": median(answer["seconds"] for answer in measured),
        "seconds_by_round": [answer["seconds"] for answer in measured],
        "parts": {part: median(answer["parts"][part] for answer in measured) for part in PARTS},
        "peak_bytes": max(answer["peak_bytes"] + answer["helper_bytes"] for answer in answers),
        "prompt_tokens": [answer["prompt_tokens"] for answer in measured],
        "reply_tokens": [answer["reply_tokens"] for answer in measured],
        "signal": [answer["signal"] for answer in measured],
        "mismatch": [answer["mismatch"] for answer in measured],
    }

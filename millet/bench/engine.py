"""`millet bench engine`: load time, prefill, decode at several batch sizes and peak memory, next to peers.

Contenders take turns phase by phase, so that whatever slows the machine down for a while slows all of them. Figures are
medians over rounds. Prompts are random and new every time: no prefix cache helps, and all contenders get the same ones.
Decode speed is taken from two calls that differ only in how many tokens they generate, which leaves the prefill out.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

from millet.bench.worker import Worker
from millet.engine.planner import BATCHES, Cost, Step
from millet.kernels.cpu import read_cpu
from millet.kernels.roof import Roof, measure_roof
from millet.models.config import ModelConfig

PROMPT = 16  # tokens before a decode phase


@dataclass(frozen=True, slots=True)
class Phase:
    """What is timed: `new_tokens` greedy tokens after `batch` prompts; one new token times the prefill."""

    name: str
    batch: int
    prompt: int
    new_tokens: int

    @property
    def step(self) -> Step:
        """The step that the phase consists of, for the planner; in decode the one halfway."""
        if self.new_tokens == 1:
            return Step(self.batch * self.prompt, self.batch, self.prompt // 2)
        return Step(self.batch, self.batch, self.prompt + self.new_tokens // 2)

    @property
    def tokens(self) -> int:
        """Tokens whose time `seconds` is."""
        return self.batch * (self.prompt if self.new_tokens == 1 else self.new_tokens - 1)

    def seconds(self, generate: Callable[[int, int, int], float]) -> float:
        """Time of the phase, with `generate(batch, prompt, new_tokens)` giving the time of one call."""
        whole = generate(self.batch, self.prompt, self.new_tokens)
        if self.new_tokens == 1:
            return whole
        return max(1e-9, whole - generate(self.batch, self.prompt, 1))


def phases(new_tokens: int = 33) -> list[Phase]:
    """Prefill first, then decode by rising batch, so that memory grows in an order that means something."""
    prefill = [Phase(f"prefill_{n}", 1, n, 1) for n in (128, 512)]
    return prefill + [Phase(f"decode_{batch}", batch, PROMPT, new_tokens) for batch in BATCHES]


@dataclass(slots=True)
class Result:
    """One phase: speed and share of the roof by contender, Millet's speed over each peer's, and the predicted speed."""

    tokens_per_second: dict[str, float]
    ratio: dict[str, float]
    roof_share: dict[str, float]
    predicted: float


@dataclass(slots=True)
class Tally:
    """What one contender has shown: seconds by phase and round, peak memory when a phase first ended, its tokens."""

    load_seconds: float = 0.0
    start_seconds: float = 0.0
    bare_bytes: int = 0
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    token_ids: list[list[int]] = field(default_factory=list)


class Caller(Protocol):
    def call(self, do: str, **arguments: Any) -> dict[str, Any]: ...


def bench_engine(
    model: str,
    peers: Sequence[str],
    *,
    rounds: int = 3,
    threads: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run Millet and `peers` on one model, a name or a path that `millet.load` takes; it must be on this machine.

    The report is ready for JSON. `say` is told what is going on. Raises MilletError when a contender fails.
    """
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    say("measuring the roof")
    before = measure_roof()
    with ExitStack() as stack:
        workers: dict[str, Caller] = {n: stack.enter_context(Worker(n, threads)) for n in ("millet", *peers)}
        config, tallies = compete(workers, model, phases(), rounds=rounds, say=say)
    roof = best(before, measure_roof())
    return {"model": model} | report(tallies, config, roof, phases(), rounds)


def compete(
    workers: Mapping[str, Caller],
    model: str,
    course: Sequence[Phase],
    *,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[ModelConfig, dict[str, Tally]]:
    """Start and load every contender, then `rounds` times through all phases, taking turns.

    Millet comes first in `workers`: it says which file the model is, and of what shape.
    """
    tallies = {name: Tally() for name in workers}
    hf: dict[str, Any] = {}
    for name, worker in workers.items():
        say(f"loading: {name}")
        started, loaded = worker.call("start"), worker.call("load", model=model)
        if name == "millet":
            model, hf = loaded["path"], loaded["config"]
        tally = tallies[name]
        tally.start_seconds, tally.load_seconds = started["seconds"], loaded["seconds"]
        tally.bare_bytes, tally.threads, tally.versions = started["bare_bytes"], started["threads"], started["versions"]
        tally.peak_bytes["load"] = loaded["peak_bytes"]
        worker.call("generate", prompts=[[1] * PROMPT], new_tokens=4)  # first calls build caches that stay
    config = ModelConfig.from_hf(hf)
    for number in range(rounds):
        for phase in course:
            for name, worker in workers.items():
                say(f"round {number + 1} of {rounds}: {phase.name}, {name}")
                # The same seed for every contender and its own for every round and phase.
                _run(worker, tallies[name], phase, config.vocab_size, random.Random(f"{number} {phase.name}"))
    return config, tallies


def _run(worker: Caller, tally: Tally, phase: Phase, vocabulary: int, draw: random.Random) -> None:
    def generate(batch: int, prompt: int, new_tokens: int) -> float:
        prompts = [[draw.randrange(vocabulary) for _ in range(prompt)] for _ in range(batch)]
        answer = worker.call("generate", prompts=prompts, new_tokens=new_tokens)
        tally.token_ids += answer["token_ids"]
        tally.peak_bytes.setdefault(phase.name, answer["peak_bytes"])
        seconds: float = answer["seconds"]
        return seconds

    tally.seconds.setdefault(phase.name, []).append(phase.seconds(generate))


def best(*roofs: Roof) -> Roof:
    """The highest figure of each kind: a disturbance can only lower them."""
    bf16 = [roof.bf16 for roof in roofs if roof.bf16 is not None]
    return Roof(
        read=max(roof.read for roof in roofs),
        fp32=max(roof.fp32 for roof in roofs),
        bf16=max(bf16) if bf16 else None,
        dispatch=min(roof.dispatch for roof in roofs),
        device=roofs[0].device,
        threads=roofs[0].threads,
    )


def report(
    tallies: Mapping[str, Tally], config: ModelConfig, roof: Roof, course: Sequence[Phase], rounds: int
) -> dict[str, Any]:
    """Medians, ratios (above 1 is in Millet's favour) and shares of the roof. Bytes, seconds, tokens/s."""
    cost, cpu = Cost.of(config), read_cpu()
    weights = 4 * cost.parameters
    results = {phase.name: asdict(_result(phase, tallies, cost, roof)) for phase in course}
    ours = tallies["millet"]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "cpu": {"name": cpu.name, "features": list(cpu.features), "cores": cpu.cores},
        "threads": {name: tally.threads for name, tally in tallies.items()},
        "versions": versions | {k: v for tally in tallies.values() for k, v in tally.versions.items()},
        "rounds": rounds,
        "roof": asdict(roof),
        "weights_bytes": weights,
        "load": {
            "seconds": {name: tally.load_seconds for name, tally in tallies.items()},
            "import_seconds": {name: tally.start_seconds for name, tally in tallies.items()},
            "ratio": {n: t.load_seconds / ours.load_seconds for n, t in tallies.items() if t is not ours},
        },
        "phases": results,
        "memory": {name: _memory(tally, weights) for name, tally in tallies.items()},
        "same_tokens": {n: _agreement(ours, t) for n, t in tallies.items() if t is not ours},
    }


def _result(phase: Phase, tallies: Mapping[str, Tally], cost: Cost, roof: Roof) -> Result:
    seconds = {name: median(tally.seconds[phase.name]) for name, tally in tallies.items()}
    steps = phase.new_tokens - 1 or 1
    return Result(
        tokens_per_second={name: phase.tokens / s for name, s in seconds.items()},
        ratio={name: s / seconds["millet"] for name, s in seconds.items() if name != "millet"},
        roof_share={name: steps * phase.step.roof_seconds(cost, roof, 4) / s for name, s in seconds.items()},
        predicted=phase.tokens / (steps * phase.step.predicted_seconds(cost, roof, 4)),
    )


def _memory(tally: Tally, weights: int) -> dict[str, Any]:
    """Peak resident bytes up to the end of each phase's first round, and what they are beyond a bare `import torch`."""
    peak = max(tally.peak_bytes.values())
    return {
        "peak_bytes": peak,
        "peak_bytes_by_phase": dict(tally.peak_bytes),
        "import_torch_bytes": tally.bare_bytes,
        "peak_to_weights": peak / weights,
        "above_torch_to_weights": (peak - tally.bare_bytes) / weights,
    }


def _agreement(ours: Tally, theirs: Tally) -> float:
    """Share of prompts after which both generated the very same tokens."""
    pairs = list(zip(ours.token_ids, theirs.token_ids, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)

"""From what contenders have shown to the report: medians, ratios, shares of the roof. Bytes, seconds, tokens/s."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from millet.bench.course import Phase
from millet.bench.peers import PEERS, program
from millet.engine.planner import Cost, Precision
from millet.kernels.cpu import read_cpu
from millet.kernels.roof import Roof
from millet.models.config import ModelConfig


def heading(model: str, threads: int, rounds: int) -> dict[str, Any]:
    """What every report of a training bench begins with."""
    cpu = read_cpu()
    return {
        "model": model,
        "cpu": {"name": cpu.name, "cores": cpu.cores},
        "threads": threads,
        "versions": {"python": platform.python_version()},
        "rounds": rounds,
    }


@dataclass(slots=True)
class Tally:
    """What one contender has shown: seconds by phase, round and call, peak memory when a phase first ended, its tokens.

    weight_bytes: of the weights read for one token; cache_itemsize: of one number of the key/value cache. native: by
    Millet's native kernels; integers: products of small integers. build: how the program was compiled, if it says so.
    """

    load_seconds: float = 0.0
    start_seconds: float = 0.0
    bare_bytes: int = 0
    threads: int = 0
    weight_bytes: int = 0
    cache_itemsize: int = 4
    native: bool = False
    integers: bool = False
    build: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    token_ids: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """One phase: speed and share of the roof by contender; the fastest contender of each peer, and the speed of its
    rival over it; the speed that the planner predicted for those of Millet's contenders that it knows."""

    tokens_per_second: dict[str, float]
    best: dict[str, str]
    ratio: dict[str, float]
    roof_share: dict[str, float]
    predicted: dict[str, float]


def report(
    tallies: Mapping[str, Tally], config: ModelConfig, roof: Roof, course: Sequence[Phase], rounds: int
) -> dict[str, Any]:
    """Ratios are of Millet to a peer and above 1 where Millet is ahead; of a peer's several contenders its best counts,
    phase by phase."""
    cost, cpu = Cost.of(config), read_cpu()
    load = {name: tally.load_seconds for name, tally in tallies.items()}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "cpu": {"name": cpu.name, "features": list(cpu.features), "cores": cpu.cores},
        "threads": {name: tally.threads for name, tally in tallies.items()},
        "versions": versions | {k: v for tally in tallies.values() for k, v in tally.versions.items()},
        "builds": {program(name): tally.build for name, tally in tallies.items() if tally.build},
        "rounds": rounds,
        "roof": asdict(roof),
        "rivals": rivals(tallies),
        "weight_bytes": {name: tally.weight_bytes for name, tally in tallies.items()},
        "load": {
            "seconds": load,
            "import_seconds": {name: tally.start_seconds for name, tally in tallies.items()},
            "best": best(load),
            "ratio": ratios(load),
        },
        "phases": {phase.name: asdict(_result(phase, tallies, cost, roof)) for phase in course},
        "memory": {name: _memory(tally) for name, tally in tallies.items()},
        "same_tokens": _agreements(tallies),
    }


def rivals(names: Mapping[str, Any]) -> dict[str, str]:
    """By peer, which of Millet's contenders it is compared with."""
    peers = dict.fromkeys(program(name) for name in names if program(name) != "millet")
    wanted = {peer: PEERS[peer].rival if peer in PEERS else "millet" for peer in peers}
    return {peer: name if name in names else "millet" for peer, name in wanted.items()}


def best(seconds: Mapping[str, float]) -> dict[str, str]:
    """By peer, its fastest contender."""
    return {
        peer: min((name for name in seconds if program(name) == peer), key=seconds.__getitem__)
        for peer in rivals(seconds)
    }


def ratios(seconds: Mapping[str, float]) -> dict[str, float]:
    """By peer, how many times as fast Millet is as its best."""
    fastest = best(seconds)
    return {peer: seconds[fastest[peer]] / seconds[rival] for peer, rival in rivals(seconds).items()}


def _result(phase: Phase, tallies: Mapping[str, Tally], cost: Cost, roof: Roof) -> Result:
    seconds = {name: phase.seconds(tally.seconds[phase.name]) for name, tally in tallies.items()}
    kept = {name: precision(tally, cost) for name, tally in tallies.items()}
    least = {name: phase.steps * phase.step.roof_seconds(cost, roof, kept[name]) for name in tallies}
    ours = [name for name in tallies if program(name) == "millet"]
    predicted = {name: phase.steps * phase.step.predicted_seconds(cost, roof, kept[name]) for name in ours}
    return Result(
        tokens_per_second={name: phase.tokens / s for name, s in seconds.items()},
        best=best(seconds),
        ratio=ratios(seconds),
        roof_share={name: least[name] / s for name, s in seconds.items()},
        predicted={name: phase.tokens / s for name, s in predicted.items()},
    )


def precision(tally: Tally, cost: Cost) -> Precision:
    """How a contender keeps its numbers, for the planner."""
    weight = tally.weight_bytes / (cost.parameters - cost.unread)
    return Precision(weight, tally.cache_itemsize, tally.native, tally.integers)


def _memory(tally: Tally) -> dict[str, Any]:
    """Peak resident bytes up to the end of each phase's first round, and what they are beyond the bare runtime, which
    is PyTorch or, for llama.cpp, numpy."""
    peak = max(tally.peak_bytes.values())
    return {
        "peak_bytes": peak,
        "peak_bytes_by_phase": dict(tally.peak_bytes),
        "bare_bytes": tally.bare_bytes,
        "peak_to_weights": peak / tally.weight_bytes,
        "above_bare_to_weights": (peak - tally.bare_bytes) / tally.weight_bytes,
    }


def _agreements(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """By peer that computes as its rival does, in fp32: share of prompts after which both generated the same tokens.

    Quantised arithmetic differs by design; how much is fidelity.py's matter.
    """
    like = {peer: rival for peer, rival in rivals(tallies).items() if peer in tallies}
    return {peer: _agreement(tallies[rival], tallies[peer]) for peer, rival in like.items()}


def _agreement(ours: Tally, theirs: Tally) -> float:
    pairs = list(zip(ours.token_ids, theirs.token_ids, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)

"""What a stage of training has cost: time, tokens, arithmetic, money."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from millet.errors import BadRequest
from millet.kernels.cpu import read_cpu


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for an hour of what the training ran on; the defaults are what clouds ask in 2026, in dollars.

    A run on a CPU pays for every core that it may use, one on a GPU for the GPU, which brings its CPU with it.
    """

    currency: str = "USD"
    cpu_core_hour: float = 0.03
    gpu_hour: float = 2.5

    def __post_init__(self) -> None:
        for name in ("cpu_core_hour", "gpu_hour"):
            if not getattr(self, name) >= 0:
                raise BadRequest(f"prices.{name} is {getattr(self, name)}; it must be at least 0")

    def of(self, seconds: float, gpu: bool) -> float:
        """The price of so many seconds on this machine."""
        return seconds / 3600 * (self.gpu_hour if gpu else self.cpu_core_hour * read_cpu().cores)


@dataclass
class Ledger:
    """wall, cpu and gpu in seconds; cpu counts every thread and finished child process, gpu each device. tokens went
    through forward and backward, sampled were generated. flops as counted from the number of weights; attention,
    teachers and references are left out."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    tokens: int = 0
    sampled_tokens: int = 0
    flops: float = 0.0

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Self:
        return cls(**{field.name: entries[field.name] for field in fields(cls)})

    def add(self, other: Ledger) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def entries(self, prices: Prices) -> dict[str, Any]:
        """For lineage and reports, with the money."""
        money = prices.of(self.gpu_seconds or self.wall_seconds, gpu=self.gpu_seconds > 0)
        return {**asdict(self), "money": money, "currency": prices.currency}


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self, gpu: bool) -> None:
        self._gpu = gpu
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def lap(self) -> Ledger:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        lap = Ledger(wall_seconds=wall - self._wall, cpu_seconds=cpu - self._cpu)
        lap.gpu_seconds = lap.wall_seconds if self._gpu else 0.0
        self._wall, self._cpu = wall, cpu
        return lap


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations of one token, a multiplication and an addition for each weight.

    weights: all of the model; trained: those of them (or of an adapter) that learn.
    """

    weights: int
    trained: int

    def flops(self, tokens: int, sampled: int) -> float:
        # Forward, backward to the activations, and backward to the weights that learn; sampling is forward only.
        return tokens * (4.0 * self.weights + 2.0 * self.trained) + sampled * 2.0 * self.weights


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

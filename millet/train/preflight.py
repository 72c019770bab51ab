"""Before a run begins: whether there is room for it, and how long and how dear it will be, from a few timed steps."""

from __future__ import annotations

import contextlib
import copy
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from millet.errors import MilletError, OutOfMemory
from millet.kernels.cpu import read_memory
from millet.train import devices
from millet.train.checkpoint import KEPT
from millet.train.ledger import Prices
from millet.train.loop import Method
from millet.train.optimizer import OptimizerSettings, state_bytes
from millet.train.sharding import is_sharded

TIMED = 3  # steps at most; the first warms up and does not count where there are others
RESET_PEAK, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
PATIENCE = 20.0  # seconds after which no other is timed


@dataclass(frozen=True)
class Forecast:
    """memory: bytes that training takes beside the weights, in all processes; available: that there are. seconds,
    money: of all steps."""

    notes: list[str]  # the method's own
    trained: int
    steps: int
    memory: int
    available: int
    seconds: float
    money: float
    currency: str

    def lines(self) -> list[str]:
        """For a person."""
        return [
            *self.notes,
            f"memory: {self.memory / 1e9:.2f} GB beside the weights, of {self.available / 1e9:.1f} GB that are free; "
            f"{self.trained / 1e6:.1f} M weights learn",
            time_and_cost(self.seconds, f"{self.steps:,} steps", self.money, self.currency),
        ]


def time_and_cost(seconds: float, work: str, money: float, currency: str) -> str:
    """What so much work will take, in a line."""
    hours, minutes = divmod(round(seconds / 60), 60)
    span = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"time: about {span} for {work}; cost: about {money:.2g} {currency}"


def check_room(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings, folder: Path) -> None:
    """Raises OutOfMemory where the optimiser alone would not fit, MilletError where the checkpoints would not: beside
    those that are in `folder` already, of which the oldest goes when there is a new one."""
    needed, available = _state_bytes(parameters, settings), _available(parameters)
    if needed > available:
        raise OutOfMemory(
            f"gradients and optimiser need {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB are free; close other "
            "programs, choose a smaller model, or train an adapter with [stage.lora]"
        )
    weights = sum(p.numel() * p.element_size() for p in parameters.values())
    moments = sum(4 * p.numel() for p in parameters.values())
    written = (KEPT + 1) * (
        weights + state_bytes(parameters, settings) - moments
    )  # gradients are not saved; a third is whole before one goes
    written -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if written > free:
        raise MilletError(
            f"checkpoints in {folder} need up to {written / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free on that "
            "disk; make room, or choose another --out"
        )


def forecast(
    method: Method, parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings, steps: int, prices: Prices
) -> Forecast:
    """Has the method check itself, and computes its first steps without changing a weight; it is left as it was.

    Raises OutOfMemory where the whole run would not fit, and whatever the method raises.
    """
    gpu = any(p.is_cuda for p in parameters.values())
    available = _available(parameters)
    with _Unchanged(method, parameters):
        notes = method.check()
    with _Unchanged(method, parameters):
        before = _used(gpu)
        seconds = [_time_step(method, parameters, 0)]
        while len(seconds) < min(TIMED, steps) and sum(seconds) < PATIENCE:
            seconds.append(_time_step(method, parameters, len(seconds)))
        (activations,) = map(int, devices.total(max(0, _peak(gpu) - before)))
    timed = seconds[1:] or seconds
    total = sum(timed) / len(timed) * steps
    memory = _state_bytes(parameters, settings) + activations
    if memory > available:
        raise OutOfMemory(
            f"training needs about {memory / 1e9:.1f} GB beside the weights and {available / 1e9:.1f} GB are free; "
            "lower micro_tokens, set checkpointing = true, or train an adapter with [stage.lora]"
        )
    trained = sum(p.numel() for p in parameters.values())
    money = prices.of(total, gpu) * (devices.count() if gpu else 1)
    return Forecast(notes, trained, steps, memory, available, total, money, prices.currency)


def _time_step(method: Method, parameters: Mapping[str, nn.Parameter], step: int) -> float:
    start = time.perf_counter()
    for micro in method.micro_batches(step):
        micro.loss.backward()
    for parameter in parameters.values():
        parameter.grad = None
    return max(devices.gathered(time.perf_counter() - start))  # all processes take as many, by the same clock


class _Unchanged:
    """What a method and PyTorch's random numbers were before it, they are after it."""

    def __init__(self, method: Method, parameters: Mapping[str, nn.Parameter]) -> None:
        self._method, self._parameters = method, parameters
        self._state = copy.deepcopy(method.state())
        self._random = torch.get_rng_state()
        self._random_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
        self._method.restore(self._state)
        torch.set_rng_state(self._random)
        if self._random_gpu:
            torch.cuda.set_rng_state_all(self._random_gpu)


def _state_bytes(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> int:
    """Of all processes together; what is not sharded, each of them has."""
    shared = any(is_sharded(parameter) for parameter in parameters.values())
    return state_bytes(parameters, settings) * (1 if shared else devices.count())


def _available(parameters: Mapping[str, nn.Parameter]) -> int:
    for parameter in parameters.values():
        if parameter.is_cuda:
            return int(torch.cuda.mem_get_info(parameter.device)[0]) * devices.count()
    return read_memory().available


def _used(gpu: bool) -> int:
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError):
        RESET_PEAK.write_text("5")  # proc(5): VmHWM begins anew from what is in use
    return int(psutil.Process().memory_info().rss)


def _peak(gpu: bool) -> int:
    """Bytes in use at most since `_used`; without Linux since the process began, which errs on the safe side."""
    if gpu:
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

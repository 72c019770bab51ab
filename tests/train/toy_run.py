"""A toy run of the loop, to which something may happen in the middle of a step."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from millet.errors import MilletError
from millet.train import checkpoint
from millet.train.checkpoint import weights_hash
from millet.train.ledger import Arithmetic
from millet.train.loop import Loop, LoopSettings, MicroBatch
from millet.train.optimizer import OptimizerSettings
from millet.train.progress import Silent


class ToyMethod:
    """Regression on random rows, each learned from twice: when it is drawn, and from a buffer, one step later."""

    def __init__(self, network: nn.Module, when: str = "") -> None:
        self._network = network
        self._name, _, step = when.partition(":")
        self._step = int(step or -1)
        self._position = 0
        self._buffer: list[torch.Tensor] = []

    def check(self) -> list[str]:
        return []

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        assert step == self._position, "the method is where the loop is"
        fresh = torch.randn(8, 6)
        batches = [fresh, *self._buffer]
        for index, rows in enumerate(batches):
            if index == len(batches) - 1 and step == self._step:
                happen(self._name)
            scale = torch.inf if self._name == "inf" and step == self._step else 1.0
            error = self._network(rows) - rows.sin().sum(1, keepdim=True)
            yield MicroBatch(scale * error.square().mean() / len(batches), tokens=len(rows), sampled=1)
        self._buffer = [fresh]
        self._position += 1

    def metrics(self) -> Mapping[str, float | None]:
        return {"buffered": len(self._buffer), "nothing": float("nan")}

    def sample(self) -> Mapping[str, Any] | None:
        return {"question": f"<{self._position}>"}

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "buffer": self._buffer}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._position, self._buffer = state["position"], list(state["buffer"])


def happen(name: str) -> None:
    if name in ("SIGKILL", "SIGTERM", "SIGINT"):
        os.kill(os.getpid(), getattr(signal, name))
    elif name == "kill-in-save":  # when the next checkpoint is written, but not in its place yet
        checkpoint.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    elif name == "disk-full":  # no file can grow further than this; a checkpoint would be longer
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def toy_network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def toy_loop(folder: Path, steps: int, when: str = "", kind: Any = "muon", every: int = 4) -> tuple[Loop, nn.Module]:
    network = toy_network()
    settings = LoopSettings(
        optimizer=OptimizerSettings(kind=kind, learning_rate=0.02, weight_decay=0.01), checkpoint_every=every
    )
    parameters = dict(network.named_parameters())
    return Loop(ToyMethod(network, when), parameters, steps, settings, folder, Arithmetic(100, 100)), network


def main(folder: Path, steps: int, when: str = "") -> None:
    """For a process that can be killed. Prints the hash of the final weights. when: "NAME:STEP"; see `happen`."""
    torch.set_num_threads(1)
    loop, network = toy_loop(folder, steps, when)
    try:
        loop.run(Silent())
    except MilletError as error:
        sys.exit(str(error))
    print(weights_hash(dict(network.named_parameters())))

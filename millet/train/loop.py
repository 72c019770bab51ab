"""The one loop of all methods: gradients of micro-batches, a step, a line of metrics, and now and then a checkpoint.

A method says what is learned from: for every step it yields micro-batches, each with its share of the step's loss,
which is differentiated before the next is asked for. Where several processes train together (devices.py), each yields
those that are dealt to it, and what they find is added up here. All else is here, so that every method accumulates,
clips, stops and goes on in the same way. What a run does depends on its settings alone: interrupted anywhere, killed
included, it goes on from its last checkpoint to the weights it would have had anyway, bit for bit on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from millet.errors import BadRequest, MilletError
from millet.train import devices
from millet.train.checkpoint import CHECKPOINTS, Checkpoints
from millet.train.ledger import Arithmetic, Ledger, Stopwatch
from millet.train.metrics import NoLog, StepLog
from millet.train.optimizer import Optimizer, OptimizerSettings
from millet.train.progress import Progress
from millet.train.schedule import Schedule
from millet.train.sharding import laid_out
from millet.train.signals import Signals, Stopped


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """loss: its share of the step's loss, a scalar that can be differentiated; the shares of a step add up to it.

    tokens: how many went through the model. sampled: how many were generated for it.
    """

    loss: Tensor
    tokens: int
    sampled: int = 0


class Method(Protocol):
    """What is learned from. Two runs that are in the same state do the same."""

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """Those of a step, counted from 0, of which `devices.deal` gives each process its own. A step without any
        changes no weights."""

    def check(self) -> list[str]:
        """What a person should know before the first step, in lines. It may try things out: the state is put back.

        Raises MilletError where it cannot work.
        """

    def metrics(self) -> Mapping[str, float | None]:
        """Of the step that was just computed, by name: numbers only, never text."""

    def sample(self) -> Mapping[str, Any] | None:
        """Something to read from the step that was just computed, for the report: names and texts or numbers."""

    def state(self) -> dict[str, Any]:
        """All that changes from step to step, position in the data and buffers included, in types of a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be as when `state` gave this."""

    def close(self) -> None:
        """Let go of what it holds beside memory: threads, processes."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """checkpoint_every: steps between two checkpoints; what a killed run computes again is at most this."""

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: Schedule = field(default_factory=Schedule)
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise BadRequest(f"checkpoint_every is {self.checkpoint_every}; it must be at least 1")


class Loop:
    """A run of `steps` steps in `folder`, which goes on where an earlier one in the same folder was.

    parameters: what learns, changed in place. method: has seen none of its data yet.
    """

    def __init__(
        self,
        method: Method,
        parameters: Mapping[str, nn.Parameter],
        steps: int,
        settings: LoopSettings,
        folder: Path,
        arithmetic: Arithmetic,
    ) -> None:
        self.done = 0
        self.ledger = Ledger()
        self._method, self._parameters, self._steps, self._settings = method, dict(parameters), steps, settings
        self._folder, self._arithmetic = folder, arithmetic
        self._gpu = any(p.is_cuda for p in parameters.values())
        self._watch = Stopwatch(self._gpu)
        self._optimizer = Optimizer(parameters, settings.optimizer)
        self._checkpoints = Checkpoints(folder / CHECKPOINTS)
        self._sizes = {"metrics": 0, "samples": 0}  # bytes of the step logs that belong to the steps done
        if (found := self._checkpoints.latest()) is not None:
            self._restore(*found)

    def run(self, progress: Progress) -> Ledger:
        """All steps that are left; what the whole run has cost, earlier parts of it included.

        Raises Stopped after a signal, when the state is saved; MilletError when the loss is no number any more or a
        checkpoint cannot be written: then the last checkpoint stands.
        """
        try:
            self._run(progress)
        except OSError as error:
            raise MilletError(
                f"cannot write to {self._folder} ({error.strerror or error}), so training stopped and {self._kept()}; "
                "make room and run the same command to go on"
            ) from error
        if self.done < self._steps:
            raise Stopped(f"stopped after step {self.done} of {self._steps} and saved; run the same command to go on")
        return self.ledger

    def _run(self, progress: Progress) -> None:
        metrics, samples = (
            StepLog(self._folder / f"{name}.jsonl", size) if devices.first() else NoLog()
            for name, size in self._sizes.items()
        )
        self.ledger.add(self._lap())  # of the pre-flight
        with metrics, samples, Signals() as signals:
            for record in metrics.dropped:  # computed for nothing, and paid for all the same
                self.ledger.add(Ledger.of(record["cost"]))
            stopping = False
            while self.done < self._steps and not stopping:
                record = self._step()
                metrics.write(record)
                if (sample := self._method.sample()) is not None:
                    samples.write({"step": record["step"], **sample})
                # Asked once a step, so that nothing is left unsaved; a signal to one process is one to all.
                stopping = any(devices.gathered(signals.caught))
                if self.done % self._settings.checkpoint_every == 0 or self.done == self._steps or stopping:
                    self._sizes = {"metrics": metrics.sync(), "samples": samples.sync()}
                    self._save()
                    self.ledger.add(self._lap())  # after the step's own lap, so that its speed is the step's
                progress.step(self.done, record)

    def _step(self) -> dict[str, Any]:
        step = self.done
        share = self._settings.schedule.at(step, self._steps)
        loss, backward, tokens, sampled, norm = 0.0, 0.0, 0, 0, None
        for micro in self._method.micro_batches(step):
            loss += self._finite(micro.loss.item(), "loss")
            began = time.perf_counter()
            micro.loss.backward()
            self._optimizer.collect()
            if self._gpu:
                torch.cuda.synchronize()
            backward += time.perf_counter() - began
            tokens, sampled = tokens + micro.tokens, sampled + micro.sampled
            norm = 0.0
        if norm is not None:
            self._optimizer.add_up()
            norm = self._finite(self._optimizer.norm(), "norm of the gradients")
            self._optimizer.step(share, norm)
        self.done += 1
        cost = self._lap()
        loss, *counts = devices.total(loss, tokens, sampled)
        cost.tokens, cost.sampled_tokens = map(int, counts)
        cost.flops = self._arithmetic.flops(cost.tokens, cost.sampled_tokens)
        self.ledger.add(cost)
        return {
            "step": step + 1,
            "loss": None if norm is None else loss,
            "gradient_norm": norm,
            "learning_rate": self._settings.optimizer.learning_rate * share,
            "tokens_per_second": (cost.tokens + cost.sampled_tokens) / cost.wall_seconds,
            **{name: _number(value) for name, value in self._method.metrics().items()},
            "backward_seconds": backward,
            "cost": cost.__dict__.copy(),
        }

    def _lap(self) -> Ledger:
        """What all processes have spent since the last one."""
        lap = self._watch.lap()
        lap.cpu_seconds, lap.gpu_seconds = devices.total(lap.cpu_seconds, lap.gpu_seconds)
        return lap

    def _finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        self._optimizer.clear()
        raise MilletError(
            f"the {what} is {value} at step {self.done + 1}, so training stopped and {self._kept()}; lower the "
            "learning rate or look for broken data, and begin a new --out"
        )

    def _kept(self) -> str:
        steps = self._checkpoints.steps()
        return f"the checkpoint of step {steps[-1]} stands" if steps else "no checkpoint was written yet"

    def _save(self) -> None:
        state = {
            "weights": {name: p.detach() for name, p in self._parameters.items()},
            "optimizer": self._optimizer.state(),
            "method": self._method.state(),
            "ledger": self.ledger.__dict__.copy(),
            "sizes": self._sizes,
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state_all() if self._gpu else [],
        }
        self._checkpoints.save(self.done, state)

    def _restore(self, done: int, state: Mapping[str, Any]) -> None:
        self.done = done
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(laid_out(state["weights"][name], parameter))
        self._optimizer.restore(state["optimizer"])
        self._method.restore(state["method"])
        self.ledger = Ledger.of(state["ledger"])
        self._sizes = dict(state["sizes"])
        torch.set_rng_state(state["random"])
        if self._gpu:
            torch.cuda.set_rng_state_all(state["random_gpu"])


def _number(value: float | None) -> float | None:
    """JSON has no infinities; a mean of nothing, say, is not worth stopping for."""
    return value if value is None or math.isfinite(value) else None

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from millet.errors import BadRequest, MilletError, OutOfMemory
from millet.kernels.cpu import Memory
from millet.train import preflight
from millet.train.checkpoint import weights_hash
from millet.train.ledger import Prices
from millet.train.loop import MicroBatch
from millet.train.optimizer import OptimizerSettings
from millet.train.preflight import check_room, forecast
from tests.train.toy_run import ToyMethod, toy_network

SETTINGS = OptimizerSettings()


class Counting(ToyMethod):
    """Counts its steps, draws random numbers when it checks itself, and takes as long as it is told."""

    steps = 0

    def check(self) -> list[str]:
        torch.randn(3)
        self._position += 5
        return ["a note"]

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        self.steps += 1
        yield from super().micro_batches(step)


def test_nothing_is_other_than_before() -> None:
    network = toy_network()
    parameters = dict(network.named_parameters())
    method = Counting(network)
    before = weights_hash(parameters), copy.deepcopy(method.state()), torch.get_rng_state()
    found = forecast(method, parameters, SETTINGS, 100, Prices())
    assert method.steps == preflight.TIMED
    assert (weights_hash(parameters), method.state()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(p.grad is None for p in parameters.values())
    assert found.lines()[0] == "a note"
    assert found.trained == sum(p.numel() for p in parameters.values())


def test_time_and_money_are_those_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))  # every look at it is two seconds later
    monkeypatch.setattr(preflight.time, "perf_counter", lambda: float(next(clock)))
    network = toy_network()
    found = forecast(ToyMethod(network), dict(network.named_parameters()), SETTINGS, 5000, Prices())
    assert found.seconds == 2.0 * 5000
    assert found.money == Prices().of(10_000, gpu=False)
    assert "about 2 h 47 min for 5,000 steps" in found.lines()[-1]


def test_no_more_is_timed_than_the_run_has_or_than_is_bearable(monkeypatch: pytest.MonkeyPatch) -> None:
    network = toy_network()
    parameters = dict(network.named_parameters())
    short = Counting(network)
    forecast(short, parameters, SETTINGS, 1, Prices())
    assert short.steps == 1
    monkeypatch.setattr(preflight, "PATIENCE", 0.0)
    slow = Counting(network)
    forecast(slow, parameters, SETTINGS, 100, Prices())
    assert slow.steps == 1


def test_what_the_method_refuses_leaves_it_as_it_was() -> None:
    class Refusing(ToyMethod):
        def check(self) -> list[str]:
            self._position = 7
            raise BadRequest("all replies got the same reward")

    network = toy_network()
    method = Refusing(network)
    with pytest.raises(BadRequest, match="same reward"):
        forecast(method, dict(network.named_parameters()), SETTINGS, 10, Prices())
    assert method.state()["position"] == 0


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = toy_network()
    parameters = dict(network.named_parameters())
    weights = sum(p.numel() for p in parameters.values())
    monkeypatch.setattr(preflight, "read_memory", lambda: Memory(10**9, 3 * 4 * weights - 1))
    with pytest.raises(OutOfMemory, match="gradients and optimiser need"):
        check_room(parameters, SETTINGS, tmp_path)
    monkeypatch.setattr(preflight, "read_memory", lambda: Memory(10**9, 3 * 4 * weights))
    check_room(parameters, SETTINGS, tmp_path)
    monkeypatch.setattr(preflight, "_peak", lambda gpu: 10**15)
    with pytest.raises(OutOfMemory, match="lower micro_tokens"):
        forecast(ToyMethod(network), parameters, SETTINGS, 10, Prices())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = dict(toy_network().named_parameters())
    saved = 3 * 3 * 4 * sum(p.numel() for p in parameters.values())  # three of weights and two moments

    class Disk:
        free = saved - 1

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Disk)
    with pytest.raises(MilletError, match="choose another --out"):
        check_room(parameters, SETTINGS, tmp_path)
    Disk.free = saved
    check_room(parameters, SETTINGS, tmp_path)

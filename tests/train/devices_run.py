"""Gradients of two processes against one's."""

from __future__ import annotations

from pathlib import Path

import torch

from millet.models.load import load
from millet.train import devices
from millet.train.optimizer import Optimizer, OptimizerSettings
from millet.train.sharding import is_sharded, whole
from millet.train.trainee import Trainee

SEQUENCES = [[7, 3, 99, 14, 31, 8, 5], [5, 9, 60, 31, 12, 44, 45, 101]]


def gradients(directory: Path, sequences: list[list[int]], sharded: bool) -> tuple[dict[str, torch.Tensor], float]:
    """By name, each whole, and their norm."""
    trainee = Trainee(load(directory, dtype="float32"))
    assert all(is_sharded(p) == sharded for p in trainee.parameters.values())
    for _ in range(2):  # two micro-batches add up
        (-torch.cat(trainee.logprobs(sequences)).sum()).backward()
    optimizer = Optimizer(trainee.parameters, OptimizerSettings())
    optimizer.add_up()
    found = {name: whole(p.grad) for name, p in trainee.parameters.items() if p.grad is not None}
    return found, optimizer.norm()


def compare(directories: list[str]) -> None:
    """In each of two processes, which has one of two sequences, and in turn the weights of each model. Prints the name
    of each that is as it should be."""
    torch.set_num_threads(1)
    expected = [gradients(Path(directory), SEQUENCES, sharded=False) for directory in directories]
    with devices.joined():
        for directory, (wanted, norm) in zip(directories, expected, strict=True):
            mine = [SEQUENCES[devices.rank()]]
            found, found_norm = gradients(Path(directory), mine, sharded="deepseek" not in directory)
            assert found.keys() == wanted.keys()
            for name, gradient in wanted.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=f"{directory} {name}")
            torch.testing.assert_close(found_norm, norm, rtol=1e-5, atol=0.0)
            if devices.first():
                print(Path(directory).name, flush=True)

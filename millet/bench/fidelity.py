"""How far a contender's next-token distributions are from those of the same weights in fp32.

Speed bought with rough arithmetic shows here: the mean Kullback-Leibler divergence KL(reference || contender), in nats,
and how often both hold the same token most likely, over every position of some real prompts.

Shape legend: T positions, V vocabulary.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

LENGTH = 64  # tokens of a prompt that are used at most


class Caller(Protocol):
    def call(self, do: str, **arguments: Any) -> dict[str, Any]: ...


@dataclass(slots=True)
class Sum:
    """What one contender has shown so far."""

    divergence: float = 0.0
    agreements: int = 0
    positions: int = 0

    def add(self, reference_TV: torch.Tensor, other_TV: torch.Tensor) -> None:
        self.divergence += float(divergence(reference_TV, other_TV).sum())
        self.agreements += int((reference_TV.argmax(-1) == other_TV.argmax(-1)).sum())
        self.positions += len(reference_TV)

    def report(self) -> dict[str, float]:
        return {"mean_kl": self.divergence / self.positions, "top1_agreement": self.agreements / self.positions}


def texts() -> list[str]:
    """The prompts."""
    found: list[str] = tomllib.loads(files("millet.bench").joinpath("prompts.toml").read_text("utf-8"))["prompts"]
    return found


def divergence(reference_TV: torch.Tensor, other_TV: torch.Tensor) -> torch.Tensor:
    """KL(reference || other) of the distributions that logits stand for, at each position: float64 [T]."""
    log_p_TV, log_q_TV = reference_TV.double().log_softmax(-1), other_TV.double().log_softmax(-1)
    return (log_p_TV.exp() * (log_p_TV - log_q_TV)).sum(-1)


def measure_fidelity(
    workers: Mapping[str, Caller], reference: str, prompts: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """`mean_kl` and `top1_agreement` of every contender but the reference, over all positions of all prompts."""
    sums = {name: Sum() for name in workers if name != reference}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "logits.npy"  # one prompt at a time: a large vocabulary makes tens of megabytes

        def logits(name: str, ids: Sequence[int]) -> torch.Tensor:
            workers[name].call("logits", ids=list(ids), path=str(path))
            return torch.from_numpy(np.load(path))

        for ids in prompts:
            reference_TV = logits(reference, ids)
            for name, total in sums.items():
                total.add(reference_TV, logits(name, ids))
    return {name: total.report() for name, total in sums.items()}

"""Divergence against the formula in plain Python, and the sums over prompts."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from millet.bench.fidelity import LENGTH, divergence, measure_fidelity, texts


def plain_divergence(reference: list[float], other: list[float]) -> float:
    def probabilities(logits: list[float]) -> list[float]:
        top = max(logits)
        weights = [math.exp(logit - top) for logit in logits]
        return [weight / math.fsum(weights) for weight in weights]

    pairs = zip(probabilities(reference), probabilities(other), strict=True)
    return math.fsum(p * math.log(p / q) for p, q in pairs)


class Fake:
    """A contender whose logits are those of a table, by the first token of the prompt."""

    def __init__(self, table: dict[int, list[list[float]]]) -> None:
        self.table = table

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert do == "logits"
        assert Path(arguments["path"]).name == "logits.npy"
        np.save(arguments["path"], np.array(self.table[arguments["ids"][0]], np.float32))
        return {}


def test_divergence_is_the_formula(seed: int) -> None:
    draw = random.Random(seed)
    rows = [([draw.gauss(0, 4) for _ in range(7)], [draw.gauss(0, 4) for _ in range(7)]) for _ in range(5)]
    found = divergence(torch.tensor([a for a, _ in rows]), torch.tensor([b for _, b in rows]))
    assert found.tolist() == pytest.approx([plain_divergence(a, b) for a, b in rows], rel=1e-5)


def test_it_is_zero_where_only_a_constant_was_added_and_finite_for_huge_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 1000.0]])
    assert float(divergence(logits, logits + 5)) == pytest.approx(0, abs=1e-12)
    assert float(divergence(logits, torch.tensor([[1.0, 1000.0, 2.0]]))) == pytest.approx(998)


def test_the_mean_is_over_all_positions_of_all_prompts() -> None:
    reference = {1: [[0.0, 1.0], [2.0, 0.0]], 2: [[0.0, 3.0]]}
    other = {1: [[0.0, 1.0], [0.0, 2.0]], 2: [[0.0, 1.0]]}
    workers = {"ours": Fake(reference), "theirs": Fake(other), "twin": Fake(reference)}
    found = measure_fidelity(workers, "ours", [[1, 5], [2]])
    expected = (0 + plain_divergence([2, 0], [0, 2]) + plain_divergence([0, 3], [0, 1])) / 3
    assert found["theirs"] == pytest.approx({"mean_kl": expected, "top1_agreement": 2 / 3})
    assert found["twin"] == {"mean_kl": 0.0, "top1_agreement": 1.0}
    assert set(found) == {"theirs", "twin"}


def test_there_are_twenty_different_prompts_of_some_length() -> None:
    prompts = texts()
    assert len(set(prompts)) == 20
    assert all(100 < len(text) < 6 * LENGTH and text == text.strip() for text in prompts)

"""Two models on the same problems."""

from __future__ import annotations

import math

import numpy as np
import pytest

from millet.errors import BadRequest
from millet.evaluate.compare import compare
from millet.evaluate.metrics import summarise
from millet.evaluate.results import Group
from tests.evaluate.toys import attempt, evaluation, sample, solved


def test_the_difference_on_the_same_problems() -> None:
    before, after = solved(1, 0, 0, 1), solved(1, 1, 1, 0)
    gain = compare(evaluation(before), evaluation(after)).mean["pass@1"]
    assert gain is not None
    assert gain.value == 0.25
    assert gain.low < 0 < gain.high


def test_a_steady_gain_is_seen_through_problems_that_differ() -> None:
    """Half of the problems are hopeless for both, and the second solves one in ten more: each model's own interval is
    wide, and that of the difference is that of the ten."""
    before = solved(*[0] * 100, *[1] * 80, *[0] * 20)
    after = solved(*[0] * 100, *[1] * 100)
    gain = compare(evaluation(before), evaluation(after)).mean["pass@1"]
    alone = summarise(evaluation(after)).mean["pass@1"]
    assert gain is not None
    assert alone is not None
    width = 2 * 1.96 * math.sqrt(0.1 * 0.9 / 200)
    assert gain.high - gain.low == pytest.approx(width, rel=0.1)
    assert gain.low > 0.05
    assert alone.high - alone.low > 1.5 * width


def test_the_interval_of_the_difference_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model two is right where one is, and on a fifth of the rest: the true gain is 0.1."""
    monkeypatch.setattr("millet.evaluate.metrics.RESAMPLES", 500)
    rng, held, trials = np.random.default_rng(5), 0, 100
    for trial in range(trials):
        monkeypatch.setattr("millet.evaluate.metrics.SEED", trial)
        one = rng.random(80) < 0.5
        two = one | (rng.random(80) < 0.2)
        gain = compare(evaluation(solved(*one)), evaluation(solved(*two))).mean["pass@1"]
        assert gain is not None
        held += gain.low <= 0.1 <= gain.high
    assert 0.88 <= held / trials <= 0.99


def test_lengths_and_shares_of_thoughts_are_compared_too() -> None:
    before = [attempt(i, sample(1, reasoning_tokens=10 + i)) for i in range(5)]
    after = [attempt(i, sample(1, reasoning_tokens=30 + i, thought_ended="budget")) for i in range(5)]
    found = compare(evaluation(before), evaluation(after)).mean
    assert found["thinking_tokens"] is not None
    assert [found["thinking_tokens"].value, found["thinking_tokens"].low] == pytest.approx([20.0, 20.0])
    assert found["closed_itself"] is not None
    assert found["closed_itself"].value == -1.0


def test_only_problems_that_both_have_count() -> None:
    other = solved(1, 1, group=Group("other", 0))
    before, after = evaluation([*solved(0, 1, 0), *other]), evaluation(solved(1, 1, 0)[:2])
    after.settings = before.settings
    found = compare(before, after)
    assert list(found.groups) == [Group("add", 0)]
    assert found.mean["pass@1"] is not None
    assert found.mean["pass@1"].value == 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    one = evaluation(solved(1, 0))
    with pytest.raises(BadRequest, match="settings"):
        compare(one, evaluation(solved(1, 0, k=2), k=2))
    with pytest.raises(BadRequest, match="in common"):
        compare(one, evaluation(solved(1, 0, group=Group("other", 0))))
    with pytest.raises(BadRequest, match="different questions"):
        compare(one, evaluation([attempt(i, sample(), prompt="3 + 3?") for i in range(2)]))

"""Intervals that hold what they promise, against enumeration, closed forms and synthetic truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from millet.evaluate.bootstrap import Array, interval, mean_of, ratios, resampled

SHARE = (0.0, 1.0)


def means(values_N: Array) -> Array:
    """A table with one figure: the mean."""
    return np.stack([values_N, np.ones_like(values_N)], axis=-1)[:, None, :]


def test_the_resamples_are_those_that_enumeration_gives() -> None:
    values_NM2 = np.array([[[1.0, 2.0]], [[0.0, 1.0]], [[5.0, 4.0]]])
    exact = [
        sum(values_NM2[i, 0, 0] for i in drawn) / sum(values_NM2[i, 0, 1] for i in drawn)
        for drawn in itertools.product(range(3), repeat=3)
    ]
    found = resampled(values_NM2, np.random.default_rng(1), 40_000)[:, 0]
    assert {round(x, 9) for x in found} == {round(x, 9) for x in exact}
    for value in set(exact):
        share = exact.count(value) / len(exact)
        assert np.isclose(found, value).mean() == pytest.approx(share, abs=5 * math.sqrt(share / 40_000))


def test_the_spread_is_the_standard_error(seed: int) -> None:
    values = np.random.default_rng(seed).random(500)
    replicates = resampled(means(values), np.random.default_rng(seed + 1), 20_000)[:, 0]
    assert replicates.std() == pytest.approx(values.std() / math.sqrt(500), rel=0.05)
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.002)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = means(np.arange(10.0))
    whole = resampled(values, np.random.default_rng(3), 100)
    monkeypatch.setattr("millet.evaluate.bootstrap._ROWS", 70)
    assert np.array_equal(whole, resampled(values, np.random.default_rng(3), 100))


def coverage(trials: int, problems: int, k: int, alike: bool) -> float:
    """How often the interval has the true share in it. alike: all k replies to a problem are the same."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(trials):
        chance = rng.beta(0.8, 1.2, problems)  # of which the mean is 0.4
        right = k * (rng.random(problems) < chance) if alike else rng.binomial(k, chance)
        values = means(right / k)
        found = interval(ratios(values)[0], resampled(values, rng, 1000)[:, 0], problems, SHARE)
        assert found is not None
        held += found.low <= 0.4 <= found.high
    return held / trials


@pytest.mark.parametrize(("k", "alike"), [(1, False), (8, False), (8, True)])
def test_the_interval_holds_the_truth_in_95_of_100_cases(k: int, alike: bool) -> None:
    assert 0.925 <= coverage(600, 60, k, alike) <= 0.975


def test_the_mean_over_groups_is_stratified() -> None:
    """Groups that differ a lot do not widen the interval, and each counts the same whatever its size."""
    rng, held, widths = np.random.default_rng(8), 0, []
    for _ in range(400):
        tables = [means((rng.random(n) < p).astype(float)) for n, p in ((30, 0.1), (60, 0.9))]
        value = mean_of([ratios(t) for t in tables])[0]
        replicates = mean_of([resampled(t, rng, 1000) for t in tables])[:, 0]
        found = interval(value, replicates, 90, SHARE)
        assert found is not None
        held += found.low <= 0.5 <= found.high
        widths.append(found.high - found.low)
    assert 0.92 <= held / 400 <= 0.975
    exact = 2 * 1.96 * math.sqrt(0.09 / 30 + 0.09 / 60) / 2
    assert np.mean(widths) == pytest.approx(exact, rel=0.05)


def test_none_of_so_many_is_not_never() -> None:
    found = interval(0.0, np.zeros(100), 200, SHARE)
    assert found is not None
    assert (found.value, found.low) == (0.0, 0.0)
    assert (1 - found.high) ** 200 == pytest.approx(0.025)  # Clopper and Pearson
    all_of_them = interval(1.0, np.ones(100), 200, SHARE)
    assert all_of_them is not None
    assert [all_of_them.low, all_of_them.high] == pytest.approx([1 - found.high, 1.0])
    level = interval(0.0, np.zeros(100), 200, (-1.0, 1.0))
    assert level is not None
    assert (level.low, level.high) == (-found.high, found.high)
    amount = interval(7.0, np.full(100, 7.0), 200, None)
    assert amount is not None
    assert (amount.low, amount.high) == (7.0, 7.0)


def test_what_is_not_defined_stays_so() -> None:
    nothing = np.array([[[0.0, 0.0]], [[0.0, 0.0]]])
    assert interval(ratios(nothing)[0], resampled(nothing, np.random.default_rng(0), 50)[:, 0], 0, SHARE) is None
    rarely = np.array([[[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    found = interval(ratios(rarely)[0], resampled(rarely, np.random.default_rng(0), 500)[:, 0], 1, SHARE)
    assert found is not None
    assert found.value == 1.0
    assert math.isnan(mean_of([np.array([math.nan]), np.array([math.nan])])[0])
    assert mean_of([np.array([math.nan]), np.array([0.5])])[0] == 0.5

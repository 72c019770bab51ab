"""Bootstrap intervals (Efron 1979): how much a figure would change if other problems of the same kind had been drawn.

Problems are resampled, never replies: the replies to one problem belong together. Every figure is a ratio of two sums
over problems, so that means, shares of what only some replies have (a thought), and speeds are all one case. Letters: N
problems, M figures, B resamples; the last axis of `values` holds numerator and denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONFIDENCE = 0.95
_ROWS = 1_000_000  # numbers of one block of weights: 8 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval of 95% confidence."""

    value: float
    low: float
    high: float


def ratios(values_NM2: Array) -> Array:
    """The figures themselves; NaN where a denominator is 0. [M]"""
    return _divided(values_NM2.sum(axis=0))


def resampled(values_NM2: Array, rng: np.random.Generator, resamples: int) -> Array:
    """The figures of `resamples` draws of N problems with replacement. [B, M]

    Figures that are to be compared must come from one call: then each draw has the same problems for all of them.
    """
    problems, figures, _ = values_NM2.shape
    flat = values_NM2.reshape(problems, 2 * figures)
    block = max(1, _ROWS // problems)
    parts = []
    for start in range(0, resamples, block):
        drawn = rng.integers(problems, size=(min(block, resamples - start), problems))
        offsets = np.arange(len(drawn))[:, None] * problems
        weights_BN = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)
        parts.append(_divided((weights_BN @ flat).reshape(-1, figures, 2)))
    return np.concatenate(parts)


def interval(value: float, replicates_B: Array, problems: int, limits: tuple[float, float] | None) -> Estimate | None:
    """The percentile interval; None for a figure that is not defined.

    limits: least and most that the figure can be, if there are such. Where all problems agree, resampling them says
    nothing. With limits one still knows that whatever none of N problems has is rarer than 1 - 0.025^(1/N) (Clopper and
    Pearson 1934), so the interval reaches that far.
    """
    replicates_B = replicates_B[np.isfinite(replicates_B)]
    if not np.isfinite(value) or not len(replicates_B):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates_B, [tail, 1 - tail])
    if limits is not None and np.ptp(replicates_B) < 1e-12:
        least, most = limits
        reach = 1 - tail ** (1 / max(1, problems))
        # Shares can only move away from an end; a difference of 0, or a share between, to both sides.
        low, high = max(least, value - reach), min(most, value + reach)
    return Estimate(float(value), float(low), float(high))


def mean_of(figures: list[Array]) -> Array:
    """The mean over groups, each resampled on its own (a stratified bootstrap); groups without a figure do not count.

    figures: [M] or [B, M] of each group.
    """
    stacked = np.stack(figures)
    defined = np.isfinite(stacked)
    count = defined.sum(axis=0)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _divided(sums: Array) -> Array:
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)

"""The figures of an evaluation, each a ratio of two sums over problems, and their estimates with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from millet.evaluate.bootstrap import Array, Estimate, interval, mean_of, ratios, resampled
from millet.evaluate.results import Attempt, Evaluation, Group, Sample

Estimates = dict[str, Estimate | None]

RESAMPLES = 10_000
SEED = 0  # of the resampling: the same replies give the same intervals

# Figures that are no shares: they have no upper limit.
AMOUNTS = ("thinking_tokens", "reply_tokens", "tokens_per_second")


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k replies, drawn without replacement from n of which c are right, at least one is right.

    The unbiased estimate of what k fresh replies would reach (Chen et al. 2021, arXiv:2107.03374).
    """
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority(samples: Sequence[Sample]) -> float:
    """Whether the answer that most replies give is right (Wang et al. 2022, arXiv:2203.11171).

    Between equally frequent answers a coin is thrown, of which this is the mean. A reply without an answer has no say.
    samples: all with answers that can be counted.
    """
    by_answer: dict[str, list[Sample]] = {}
    for sample in samples:
        by_answer.setdefault(sample.answer or "", []).append(sample)
    silent = by_answer.pop("", [])
    if not by_answer:
        return _share(silent)
    most = max(map(len, by_answer.values()))
    winners = [_share(agreeing) for agreeing in by_answer.values() if len(agreeing) == most]
    return sum(winners) / len(winners)


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.solved for sample in samples) / len(samples)


def steps_to(k: int) -> list[int]:
    """1, 2, 4, ... and k: where pass@k is told."""
    return sorted({k, *(1 << i for i in range(k.bit_length()) if 1 << i <= k)})


def measures(attempt: Attempt, k: int, concurrency: float) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of every figure, for one problem with k replies.

    majority: not defined where nobody can tell which answers agree. score: the mean grade, where partial credit counts.
    thinking_tokens: of a reply. truncated: the reply was cut off at max_tokens; thought_cut: its thought was closed
    because the budget was used up, or what a thought may take of max_tokens; looped: it went round in circles and was
    ended. closed_itself: of the replies with a thought, those whose model ended it. tokens_per_second: all replies
    under way together, `concurrency` of them.
    """
    samples = attempt.samples
    solved = sum(sample.solved for sample in samples)
    n = float(len(samples))

    def count(which: list[bool]) -> tuple[float, float]:
        return float(sum(which)), n

    found = {f"pass@{step}": (pass_at_k(len(samples), solved, step), 1.0) for step in steps_to(k)}
    if k > 1:
        countable = all(sample.answer is not None for sample in samples)
        found[f"majority@{k}"] = (majority(samples), 1.0) if countable else (0.0, 0.0)
    tokens = float(sum(sample.completion_tokens for sample in samples))
    return found | {
        "score": (sum(sample.score for sample in samples), n),
        "thinking_tokens": (float(sum(sample.reasoning_tokens for sample in samples)), n),
        "reply_tokens": (tokens, n),
        "truncated": count([sample.finish_reason == "length" for sample in samples]),
        "thought_cut": count([sample.thought_ended == "budget" for sample in samples]),
        "looped": count([sample.finish_reason == "loop" for sample in samples]),
        "closed_itself": (
            float(sum(sample.thought_ended == "model" for sample in samples)),
            float(sum(sample.thought for sample in samples)),
        ),
        "tokens_per_second": (concurrency * tokens, sum(sample.seconds for sample in samples)),
    }


def table(attempts: Sequence[Attempt], k: int, concurrency: float) -> tuple[list[str], Array]:
    """Names of the figures, and what each problem adds to their numerators and denominators: [N, M, 2]."""
    rows = [measures(attempt, k, concurrency) for attempt in attempts]
    return list(rows[0]), np.array([list(row.values()) for row in rows], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Summary:
    """Estimates by group, and of the mean over groups, in which each counts the same; None for what is not defined."""

    groups: Mapping[Group, Estimates]
    mean: Estimates


def summarise(evaluation: Evaluation) -> Summary:
    """All figures with their intervals; the same for the same replies."""
    concurrency, k = evaluation.concurrency(), evaluation.settings.k
    tables = {group: table(attempts, k, concurrency) for group, attempts in evaluation.groups().items()}
    return summary_of(tables, lambda figures: figures, lambda name: None if name in AMOUNTS else (0.0, 1.0))


def summary_of(
    tables: Mapping[Group, tuple[list[str], Array]],
    combine: Callable[[Array], Array],
    limits: Callable[[str], tuple[float, float] | None],
) -> Summary:
    """Estimates from tables of [N, M, 2], or of several such side by side, which `combine` makes one figure of each M
    of: [..., several x M] to [..., M]."""
    rng = np.random.default_rng(SEED)
    groups: dict[Group, Estimates] = {}
    values, replicates, counts = [], [], []
    for group, (names, values_NM2) in tables.items():
        value_M, replicates_BM = combine(ratios(values_NM2)), combine(resampled(values_NM2, rng, RESAMPLES))
        told = (values_NM2[..., 1] > 0).reshape(len(values_NM2), -1, len(names)).all(axis=1)
        count_M = told.sum(axis=0)  # problems that have a say
        groups[group] = _estimates(names, value_M, replicates_BM, count_M, limits)
        values.append(value_M)
        replicates.append(replicates_BM)
        counts.append(count_M)
    if not groups:
        return Summary({}, {})
    mean = _estimates(names, mean_of(values), mean_of(replicates), np.sum(counts, axis=0), limits)
    return Summary(groups, mean)


def _estimates(
    names: Sequence[str],
    value_M: Array,
    replicates_BM: Array,
    count_M: NDArray[np.int64],
    limits: Callable[[str], tuple[float, float] | None],
) -> Estimates:
    return {
        name: interval(value_M[i], replicates_BM[:, i], int(count_M[i]), limits(name)) for i, name in enumerate(names)
    }

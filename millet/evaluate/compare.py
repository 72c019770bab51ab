"""Which of two models is better: their difference on the same problems, which varies less than each figure alone."""

from __future__ import annotations

import numpy as np

from millet.errors import BadRequest
from millet.evaluate.bootstrap import Array
from millet.evaluate.metrics import AMOUNTS, Summary, summary_of, table
from millet.evaluate.results import Attempt, Evaluation, Group


def compare(before: Evaluation, after: Evaluation) -> Summary:
    """Figures of `after` less those of `before`, over the problems that both have, resampled together.

    Raises BadRequest where they were not asked the same in the same way.
    """
    if before.settings != after.settings:
        raise BadRequest("the two evaluations have different settings; a difference would not be the models'")
    first, second, k = _by_problem(before), _by_problem(after), before.settings.k
    shared = [key for key in first if key in second]
    if not shared:
        raise BadRequest("the two evaluations have no problem in common; run both on the same tasks and levels")
    if any(first[key].prompt != second[key].prompt for key in shared):
        raise BadRequest("the two evaluations asked different questions; run both with the same version of the tasks")
    tables: dict[Group, tuple[list[str], Array]] = {}
    for group in dict.fromkeys(group for group, _ in shared):
        keys = [key for key in shared if key[0] == group]
        names, first_NM2 = table([first[key] for key in keys], k, before.concurrency())
        _, second_NM2 = table([second[key] for key in keys], k, after.concurrency())
        tables[group] = names, np.concatenate([first_NM2, second_NM2], axis=1)
    return summary_of(tables, _difference, lambda name: None if name in AMOUNTS else (-1.0, 1.0))


def _by_problem(evaluation: Evaluation) -> dict[tuple[Group, int], Attempt]:
    return {(attempt.group, attempt.index): attempt for attempt in evaluation.attempts}


def _difference(figures: Array) -> Array:
    before, after = np.split(figures, 2, axis=-1)
    return after - before

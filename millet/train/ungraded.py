"""Graders that hang or raise: what they leave ungraded counts as wrong, and nobody is to take it for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from millet.tasks.task import Grade

TIMEOUTS, ERRORS = "grader_timeouts", "grader_errors"


def measure(grades: Sequence[Grade]) -> dict[str, float]:
    """How many of them stand for a grader that failed, for the metrics."""
    # `Graders.grade` gives these reasons, and no other that begins so.
    return {
        TIMEOUTS: sum(grade.reason.startswith("timeout") for grade in grades),
        ERRORS: sum(grade.reason.startswith("error") for grade in grades),
    }


def count(records: Iterable[Mapping[str, Any]]) -> int:
    """Of all these lines of metrics together."""
    return sum(record.get(TIMEOUTS, 0) + record.get(ERRORS, 0) for record in records)


def told(records: Iterable[Mapping[str, Any]]) -> str:
    """The same for a person; "" where no grader failed."""
    records = list(records)
    if not (failed := count(records)):
        return ""
    timeouts = sum(record.get(TIMEOUTS, 0) for record in records)
    return (
        f"{failed:,} could not be graded and count as wrong ({timeouts:,} timeouts and {failed - timeouts:,} errors of "
        "graders; see `millet task check`)"
    )

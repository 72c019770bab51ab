"""What methods that learn from replies need of others: somebody who samples, and somebody who grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from millet.reasoning.reply import Reply
from millet.tasks.grading import Counts
from millet.tasks.task import Grade, Problem, Task
from millet.train.rollout import Group

Graded = tuple[Task, Problem, Reply]


class Judges(Protocol):
    """What of `Graders` is needed."""

    @property
    def counts(self) -> Mapping[str, Counts]: ...
    def faults(self, task: str) -> int: ...
    def grade(self, replies: Sequence[Graded]) -> list[Grade]: ...
    def close(self) -> None: ...


class Sampler(Protocol):
    """What of `Rollouts` is needed."""

    def refresh(self) -> None: ...
    def release(self) -> None: ...
    def fits(self, question: str) -> bool: ...
    def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]: ...
    def close(self) -> None: ...

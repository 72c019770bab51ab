"""What methods that learn from replies need of others: somebody who samples, and somebody who grades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from millet.errors import BadRequest
from millet.reasoning.reply import Reply
from millet.tasks.draw import draw
from millet.tasks.task import Grade, Problem, Task
from millet.train.rollout import Group

Graded = tuple[Task, Problem, Reply]

TRIES = 100  # questions in a row that may be too long


class Judges(Protocol):
    """What of `Graders` is needed."""

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


def next_problem(task: Task, level: int, drawn: Counter[str], seed: int, sampler: Sampler) -> tuple[Problem, int]:
    """The next of a task that leaves room for a whole reply, and how many were passed over. drawn: how many each task
    has had; it is counted on. Raises BadRequest where none of many fits."""
    for passed_over in range(TRIES):
        problem = draw(task, "train", level, drawn[task.name], seed)
        drawn[task.name] += 1
        if sampler.fits(problem.prompt):
            return problem, passed_over
    raise BadRequest(
        f"{TRIES} questions of {task.name} in a row leave no room for a whole reply in the model's context; lower "
        "max_tokens, or take shorter questions"
    )

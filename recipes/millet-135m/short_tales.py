"""The questions of tales.py that a single calculation answers: what is read, and hardly anything else."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, PlainReply, Problem

MOST = 1  # steps


class ShortTales:
    name = "short-tales"
    levels = 1

    def __init__(self) -> None:
        self._tales: Any = find_task(str(Path(__file__).with_name("tales.py")))

    def sample(self, rng: random.Random, level: int) -> Problem:
        while True:
            if (found := _module().drawn(*rng.choice(_short()), rng)) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return self._tales.grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        return self._tales.work(problem)


@cache
def _short() -> Sequence[tuple[Any, Any]]:
    return [(tale, each) for tale in _module().tales() for each in tale.questions if len(each.steps) <= MOST]


def _module() -> Any:
    return sys.modules[type(find_task(str(Path(__file__).with_name("tales.py")))).__module__]

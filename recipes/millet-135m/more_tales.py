"""More stories as tales.py has them, from more-tales-1.txt and so on: that file's own are what earlier courses read."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, PlainReply, Problem

FIRST = 0.5  # share of a block's first question


class MoreTales:
    name = "more-tales"
    levels = 1

    def __init__(self) -> None:
        self._tales: Any = find_task(str(Path(__file__).with_name("tales.py")))

    def sample(self, rng: random.Random, level: int) -> Problem:
        while True:
            first, *others = (tale := rng.choice(more_tales())).questions
            question = first if rng.random() < FIRST else rng.choice(others)
            if (found := _module().drawn(tale, question, rng)) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return self._tales.grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        return self._tales.work(problem)


@cache
def more_tales() -> Sequence[Any]:
    files = sorted(Path(__file__).parent.glob("more-tales-*.txt"))
    return [_module().read(block) for path in files for block in path.read_text("utf-8").split("\n\n") if block.strip()]


def _module() -> Any:
    return sys.modules[type(find_task(str(Path(__file__).with_name("tales.py")))).__module__]

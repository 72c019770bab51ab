"""Stories and GSM8K's shortest problems, of one to three calculations, where each step that is right counts.

A reply whose answer is right has reward 1, one without an answer 0. Any other has a part of a half: the share of the
solution's results that its thought comes to, or, where it has more steps than the solution, the share of its steps that
are the solution's. So a step is learned from before whole solutions are right, and neither stopping early nor going on
is worth anything.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from millet.tasks.extract import to_number
from millet.tasks.find import find_task
from millet.tasks.items import grade_answer
from millet.tasks.task import Answered, Grade, Problem
from millet.tasks.worked.unworked import Unworked

SCHOOL = 0.3  # share of GSM8K's
SHARES = {1: 0.25, 2: 0.4, 3: 0.35}  # of stories, by their steps
PARTLY = 0.5
LAST = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)\W*$")  # what a line comes to
LABEL = re.compile(r"[^\W\d][^:]*:")


class EachStep:
    name = "each-step"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        if rng.random() < SCHOOL:
            return rng.choice(_school())
        [length] = rng.choices(list(SHARES), list(SHARES.values()))
        while True:
            if (found := _stories().drawn(*rng.choice(_tales(length)), rng)) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        grade = grade_answer(problem, reply)
        if grade.passed or grade.reason == "no answer":
            return grade
        return replace(grade, score=PARTLY * shared(reply.reasoning, [step[2] for step in problem.meta["steps"]]))


def shared(thought: str, results: Sequence[object]) -> float:
    """The share of results that a thought's lines come to, each counted once; of its own steps where those are more."""
    lines = thought.splitlines()
    right = Counter(to_number(str(each)) for each in results)
    reached = Counter(to_number(found[1]) for line in lines if (found := LAST.search(line)))
    steps = sum(bool(LABEL.match(line)) for line in lines)
    return (right & reached).total() / max(len(results), steps)


@cache
def _tales(length: int) -> Sequence[tuple[Any, Any]]:
    return [(tale, each) for tale in _stories().tales() for each in tale.questions if len(each.steps) == length]


@cache
def _school() -> Sequence[Problem]:
    """GSM8K's problems for training that steps.py can work."""
    found: list[Problem] = []
    task: Any = find_task(str(Path(__file__).with_name("steps.py")))
    module: Any = sys.modules[type(task).__module__]
    for problem in task.items("train"):
        try:
            task.work(problem)
        except Unworked:
            continue
        lines = problem.meta["solution"].splitlines()
        steps = [step for line in lines for step in module.steps(line.strip())]
        if len(steps) <= max(SHARES):
            found.append(replace(problem, meta={"steps": steps}))
    return found


@cache
def _stories() -> Any:
    return sys.modules[type(find_task(str(Path(__file__).with_name("tales.py")))).__module__]

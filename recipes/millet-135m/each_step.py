"""Stories and GSM8K's shortest problems, of one to three calculations, where each step that is right counts.

A reply whose answer is right has reward 1, one without an answer 0. Any other has a part of a half: of the solution's
results, and of as many more as its thought has lines too many, the share that the thought comes to. So a step is
learned from before whole solutions are right, and neither stopping early nor going on is worth anything.
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


class EachStep:
    name = "each-step"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        if rng.random() < SCHOOL:
            return rng.choice(_school())
        [length] = rng.choices(list(SHARES), list(SHARES.values()))
        while True:
            if (found := _stories().drawn(*rng.choice(_tales(length)), rng)) is not None:
                return _with_lines(found, _task("tales.py").work(found).reasoning)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        grade = grade_answer(problem, reply)
        if grade.passed or grade.reason == "no answer":
            return grade
        results = [step[2] for step in problem.meta["steps"]]
        return replace(grade, score=PARTLY * shared(reply.reasoning, results, problem.meta["lines"]))


def shared(thought: str, results: Sequence[object], lines: int) -> float:
    """The share of results that a thought's lines come to, each counted once. lines: what their working takes; a step
    may take several, but a thought that has more of them than that has as many steps too many."""
    own = thought.splitlines()
    right = Counter(to_number(str(each)) for each in results)
    reached = Counter(to_number(found[1]) for line in own if (found := LAST.search(line)))
    return (right & reached).total() / (len(results) + max(0, len(own) - lines))


def _with_lines(problem: Problem, working: str, **meta: Any) -> Problem:
    return replace(problem, meta={**problem.meta, **meta, "lines": len(working.splitlines())})


@cache
def _tales(length: int) -> Sequence[tuple[Any, Any]]:
    return [(tale, each) for tale in _stories().tales() for each in tale.questions if len(each.steps) == length]


@cache
def _school() -> Sequence[Problem]:
    """GSM8K's problems for training that steps.py can work."""
    found: list[Problem] = []
    task = _task("steps.py")
    for problem in task.items("train"):
        try:
            working = task.work(problem).reasoning
        except Unworked:
            continue
        lines = problem.meta["solution"].splitlines()
        steps = [step for line in lines for step in _module(task).steps(line.strip())]
        if len(steps) <= max(SHARES):
            found.append(_with_lines(problem, working, steps=steps))
    return found


@cache
def _stories() -> Any:
    return _module(_task("tales.py"))


@cache
def _task(name: str) -> Any:
    return find_task(str(Path(__file__).with_name(name)))


def _module(task: Any) -> Any:
    return sys.modules[type(task).__module__]

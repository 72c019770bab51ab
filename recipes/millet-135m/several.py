"""Two or three questions at once about one of tales.py's stories, each answered behind the others.

A story is told once for all of them, so more is learned from as many tokens; and what tells one solution from the next
is only what is asked. A step that an earlier question had is not calculated again.
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, PlainReply, Problem

MOST = 3  # questions


class Several:
    name = "several-tales"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        while True:
            tale = rng.choice(_stories().tales())
            count = min(rng.randint(2, MOST), len(tale.questions))
            questions = rng.sample(tale.questions, count)
            if (found := _asked(tale, questions, rng.random())) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        """All answers, in their order."""
        right = re.findall(r"\d+", reply.content.replace(",", "")) == problem.answer.split()
        return Grade(1, "right") if right else Grade(0, "wrong")

    def work(self, problem: Problem) -> PlainReply:
        thought = find_task(str(Path(__file__).with_name("tales.py"))).work(problem).reasoning  # type: ignore[attr-defined]
        *others, last = problem.answer.split()
        return PlainReply(thought, f"The answers are {', '.join(others)} and {last}.")


def _asked(tale: Any, questions: list[Any], seed: float) -> Problem | None:
    """The questions one behind the other; the same seed draws the same story for each."""
    told = _stories().drawn(tale, replace(questions[0], asked=""), random.Random(seed))
    problems = [_stories().drawn(tale, each, random.Random(seed)) for each in questions]
    if told is None:
        return None
    prompts = [each.prompt.removeprefix(told.prompt).strip() for each in problems]
    steps = dict.fromkeys(step for each in problems for step in each.meta["steps"])
    answers = " ".join(each.answer for each in problems)
    return Problem(" ".join([told.prompt, *prompts]), answers, {"steps": list(steps)})


@cache
def _stories() -> Any:
    return sys.modules[type(find_task(str(Path(__file__).with_name("tales.py")))).__module__]

"""Numbers sorted by insertion: each put where it belongs among those before it, so that the last line is the answer.

The worked solutions of reasoning-gym's number_sorting go through tens instead (millet/tasks/worked/lists.py). This
model got a third of those right, and copied a wrong answer out of three in four of them: what stands behind a number
there is not the next one.
"""

from __future__ import annotations

import random

from millet.tasks.gym import GymTask
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.unworked import came_to


class Sorting:
    name = "sorting"
    levels = 1

    def __init__(self) -> None:
        self._gym = GymTask("number_sorting")

    def sample(self, rng: random.Random, level: int) -> Problem:
        return self._gym.sample(rng, level)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return self._gym.grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        asked = problem.meta["entry"]["metadata"]
        down = asked["direction"] == "descending"
        lines: list[str] = []
        placed: list[str] = []
        for number in asked["original_numbers"]:
            placed = sorted([*placed, number], key=float, reverse=down)
            lines.append(f"{number}: {' '.join(placed)}")
        came_to(str(placed), problem.answer)
        return PlainReply("\n".join(lines), problem.answer)

"""Quotients, parts and percentages of small numbers, as stories have them.

A quarter of the quotients in this model's thoughts about stories were wrong ("14/2=6"), where sums hardly ever were.
"""

from __future__ import annotations

import random

from millet.tasks.items import grade_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import over, times

NAMED = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 8: "an eighth", 10: "a tenth"}
SEVERAL = {3: "thirds", 4: "quarters", 5: "fifths", 8: "eighths"}
QUOTIENTS = (
    "What is {a} / {b}?",
    "What is {a} divided by {b}?",
    "How many times does {b} go into {a}?",
    "{a} things are shared by {b} people. How many does each get?",
)
PERCENTAGES = (10, 20, 25, 30, 40, 50, 60, 75, 80)


class Parts:
    name = "parts"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        return rng.choice((_quotient, _quotient, _part, _parts, _percentage))(rng)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return grade_answer(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        return PlainReply("\n".join(problem.meta["lines"]), f"The answer is {problem.answer}.")


def _quotient(rng: random.Random) -> Problem:
    b, result = rng.randint(2, 12), rng.randint(2, 20)
    return _problem(rng.choice(QUOTIENTS).format(a=b * result, b=b), over(b * result, b), result)


def _part(rng: random.Random) -> Problem:
    b, result = rng.choice(list(NAMED)), rng.randint(2, 60)
    return _problem(f"What is {NAMED[b]} of {b * result}?", over(b * result, b), result)


def _parts(rng: random.Random) -> Problem:
    b, one = rng.choice(list(SEVERAL)), rng.randint(2, 30)
    a = rng.randint(2, b - 1)
    return _problem(f"What is {a} {SEVERAL[b]} of {b * one}?", over(b * one, b) + times(one, a), one * a)


def _percentage(rng: random.Random) -> Problem:
    share, number = rng.choice(PERCENTAGES), rng.randint(1, 40) * 20
    lines = times(number, share)
    lines[0] = f"{share}% of {number}: {lines[0]}"
    lines[-1] += f", so {number * share // 100}"
    return _problem(f"What is {share}% of {number}?", lines, number * share // 100)


def _problem(prompt: str, lines: list[str], answer: int) -> Problem:
    return Problem(prompt, str(answer), {"lines": lines})

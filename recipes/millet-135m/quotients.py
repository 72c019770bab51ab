"""Quotients, alone and in linear equations, each digit said again at the end of its line.

In the worked solutions of the package (millet/tasks/worked/arithmetic.py) a digit stands where it was tried, in the
middle of a line. This model finds the digits, and then has to look for them: of what it finds surprising in a right
solution of an equation, half is in the quotient itself.
"""

from __future__ import annotations

import random

from millet.tasks.gym import GymTask
from millet.tasks.items import grade_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import long_division, over
from millet.tasks.worked.equations import simple_equations

QUESTIONS = ("What is {} / {}?", "Calculate {} divided by {}.", "Divide {} by {}.", "Calculate {} / {}.")
EQUATIONS = 0.6  # share of problems


class Quotients:
    name = "quotients"
    levels = 1

    def __init__(self) -> None:
        self._equations = GymTask("simple_equations")

    def sample(self, rng: random.Random, level: int) -> Problem:
        if rng.random() < EQUATIONS:
            return self._equations.sample(rng, level)
        divisor, quotient = rng.randint(10, 2999), rng.randint(2, 99)
        pair = (divisor * quotient, divisor)
        return Problem(rng.choice(QUESTIONS).format(*pair), str(quotient), {"pair": pair})

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        if "entry" in problem.meta:
            return self._equations.grade(problem, reply)
        return grade_answer(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        if "entry" in problem.meta:
            return PlainReply("\n".join(simple_equations(problem.meta["entry"], quotient)), problem.answer)
        return PlainReply("\n".join(quotient(*problem.meta["pair"])), problem.answer)


def quotient(number: int, divisor: int) -> list[str]:
    """5226, 78: ["522: 52/7 about 7, ...; 6", "546: 54/7 about 7, ...; 7", "5226/78=67"]"""
    if divisor < 10 or number < divisor:
        return over(number, divisor)
    digits, lines = str(number // divisor), long_division(number, divisor)
    said = [line if line.endswith(": 0") else f"{line}; {digit}" for line, digit in zip(lines, digits, strict=True)]
    return [*said, f"{number}/{divisor}={digits}"]

"""Quotients of whole numbers that leave no remainder."""

from __future__ import annotations

import random

from millet.tasks.extract import extract_answer, to_number
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import over

QUESTIONS = ("What is {} / {}?", "Calculate {} divided by {}.", "Divide {} by {}.", "Calculate {} / {}.")
DIVISORS = ((2, 9, 999), (2, 9, 999), (10, 99, 99), (100, 2999, 99))  # least, most, and the largest quotient


class Division:
    name = "division"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        least, most, largest = rng.choice(DIVISORS)
        divisor, quotient = rng.randint(least, most), rng.randint(2, largest)
        pair = (divisor * quotient, divisor)
        return Problem(rng.choice(QUESTIONS).format(*pair), str(quotient), {"pair": pair})

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        answer = extract_answer(reply.content, problem.answer, problem.prompt)
        if not answer:
            return Grade(0, "no answer")
        right = to_number(answer) == to_number(problem.answer)
        return Grade(float(right), "right" if right else "wrong")

    def work(self, problem: Problem) -> PlainReply:
        return PlainReply("\n".join(over(*problem.meta["pair"])), problem.answer)

"""Products of a number of two digits and one of one digit."""

from __future__ import annotations

import random

from millet.tasks.extract import extract_answer, to_number
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import times

QUESTIONS = ("What is {} * {}?", "Calculate {} times {}.", "Multiply {} by {}.", "How much is {} x {}?")


class TwoByOne:
    name = "two_by_one"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        two, one = rng.randrange(10, 100), rng.randrange(2, 10)
        pair = rng.choice(((two, one), (one, two)))
        return Problem(rng.choice(QUESTIONS).format(*pair), str(two * one), {"factors": (two, one)})

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        answer = extract_answer(reply.content, problem.answer, problem.prompt)
        if not answer:
            return Grade(0, "no answer")
        right = to_number(answer) == to_number(problem.answer)
        return Grade(float(right), "right" if right else "wrong")

    def work(self, problem: Problem) -> PlainReply:
        return PlainReply("\n".join(times(*problem.meta["factors"])), problem.answer)

"""Several words at once, spelt forwards and backwards: how letters lie in tokens, with few other tokens around them."""

from __future__ import annotations

import random
import re
from functools import cache

from reasoning_gym.data import read_data_file

from millet.tasks.task import Answered, Grade, PlainReply, Problem

COUNT = 6  # words of a problem


class Spelling:
    name = "spelling"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        words = [rng.choice(_rare() if rng.random() < 0.6 else _common()) for _ in range(COUNT)]
        return Problem(
            f"Spell these words backward: {', '.join(words)}", ", ".join(w[::-1] for w in words), {"words": words}
        )

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        right = reply.content.strip().lower() == problem.answer.lower()
        return Grade(float(right), "right" if right else "wrong")

    def work(self, problem: Problem) -> PlainReply:
        lines = [
            line for w in problem.meta["words"] for line in (f"{w}: {' '.join(w)}", f"backward: {' '.join(w[::-1])}")
        ]
        return PlainReply("\n".join(lines), problem.answer, spelt=True)


@cache
def _rare() -> list[str]:
    """A dictionary's, as reasoning-gym's spell_backward has."""
    return [word for word in read_data_file("words3to10.txt").split() if word.isalnum()]


@cache
def _common() -> list[str]:
    """A text's, as its letter_counting has."""
    return sorted(set(re.findall(r"[a-z]{2,10}", read_data_file("in_the_year_2889.txt"))))

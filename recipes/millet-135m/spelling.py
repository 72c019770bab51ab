"""A letter counted in many words: how letters lie in tokens, with few other tokens around them."""

from __future__ import annotations

import random
import re
from functools import cache

from reasoning_gym.data import read_data_file

from millet.tasks.extract import extract_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.lists import letters

COUNT = 12  # words of a problem


class Spelling:
    name = "spelling"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        words = [rng.choice(_rare() if rng.random() < 0.5 else _common()) for _ in range(COUNT)]
        letter = rng.choice(rng.choice(words).lower())
        count, _ = letters(letter, words)
        return Problem(
            f'How many times does the letter "{letter}" appear in these words: {", ".join(words)}?',
            str(count),
            {"letter": letter, "words": words},
        )

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        right = extract_answer(reply.content, problem.answer, problem.prompt) == problem.answer
        return Grade(float(right), "right" if right else "wrong")

    def work(self, problem: Problem) -> PlainReply:
        _, lines = letters(problem.meta["letter"], problem.meta["words"])
        return PlainReply("\n".join(lines), problem.answer)


@cache
def _rare() -> list[str]:
    """A dictionary's, as reasoning-gym's spell_backward has."""
    return [word for word in read_data_file("words3to10.txt").split() if word.isalnum()]


@cache
def _common() -> list[str]:
    """A text's, as its letter_counting has."""
    return sorted(set(re.findall(r"[a-z]{2,10}", read_data_file("in_the_year_2889.txt"))))

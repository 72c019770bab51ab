"""The task of `millet bench grpo`: word problems, with a reward that seldom gives two replies the same.

A group whose replies all earn the same teaches nothing, and trainers differ in what they do with it. Here each reply of
each contender is worth something else, so all of them are learned from.
"""

from __future__ import annotations

import random

from millet.tasks.task import Answered, Grade, Problem

NAMES = ("Ada", "Emil", "Grace", "Kurt", "Mary", "Paul", "Rosa", "Yuki")
GOODS = ("apples", "books", "candles", "lamps", "pencils", "stamps", "tickets", "tulips")


class Stories:
    name = "stories"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        (giver, taker), goods = rng.sample(NAMES, 2), rng.choice(GOODS)
        boxes, each, given = rng.randint(3, 12), rng.randint(11, 40), rng.randint(2, 9)
        price = rng.randint(2, 15)
        return Problem(
            f"{giver} has {boxes} boxes with {each} {goods} each. In the morning {giver} gives {given} {goods} to "
            f"{taker}, and in the afternoon sells all that are left for {price} dollars each. How many dollars does "
            f"{giver} have in the evening? Think step by step, and end with the answer.",
            str((boxes * each - given) * price),
        )

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(lateness(reply.content))


def lateness(text: str) -> float:
    """How late in the alphabet the characters of a text are on average, from 0 to 1."""
    return sum(ord(character) % 32 for character in text) / (31 * max(1, len(text)))

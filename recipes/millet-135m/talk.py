"""Everyday questions, and what a program can see of a reply to them: that it says things once, and to its end.

A quarter of this model's everyday replies come to repeat themselves, and no other task sees it. Nothing here sees
whether a reply is true, kind, or about the question: a penalty for the distance from where training began (`kl`) has to
keep that.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

from millet.tasks.task import Answered, Grade, Problem

FILES = ("everyday", "chats", "chats-thought")
LEAST = 12  # words of a reply
TOGETHER = 4  # words that are one thing said
FREE, MOST = 0.1, 0.5  # share of things said before: nothing is lost up to the first, all from the second
ENDS = (".", "!", "?", ")", '"', "'", "”", "`", "*", "…")


class Talk:
    name = "talk"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem(rng.choice(_questions()), "")

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        said = reply.content.replace(problem.prompt, " ").strip()
        words = said.lower().split()
        if len(words) < LEAST:
            return Grade(0, "hardly a word")
        score = min(1.0, max(0.0, (MOST - repeated(words)) / (MOST - FREE)))
        if not said.endswith(ENDS):
            return Grade(score / 2, "without an end")
        return Grade(score, "said once" if score == 1 else "said again")


def repeated(words: list[str]) -> float:
    """The share of places at which the next few words have all been said before, in this order."""
    places = [tuple(words[at : at + TOGETHER]) for at in range(len(words) - TOGETHER + 1)]
    return 1 - len(set(places)) / len(places)


@cache
def _questions() -> list[str]:
    folder = Path(__file__).parent
    lines = [line for name in FILES for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return list(dict.fromkeys(json.loads(line)["question"] for line in lines))

"""Tasks in a few lines: good ones, and graders that a trick beats or that fail."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil

from millet.tasks.extract import extract_answer
from millet.tasks.task import Answered, Grade, Problem


class Sums:
    name = "sums"
    levels = 3

    def sample(self, rng: random.Random, level: int) -> Problem:
        a, b = (rng.randrange(10 ** (level + 1)) for _ in range(2))
        return Problem(f"What is {a} + {b}?", str(a + b))

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        right = extract_answer(reply.content, problem.answer, problem.prompt) == problem.answer
        return Grade(float(right), "right" if right else "wrong")


class Obedient(Sums):
    """Does what the reply's content says."""

    name = "obedient"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        word, _, value = reply.content.partition(" ")
        match word:
            case "hang":
                while True:
                    time.sleep(3600)
            case "kill" | "kill-and-hang":
                os.kill(int(value), signal.SIGKILL)
                while psutil.pid_exists(int(value)):
                    time.sleep(0.001)
                if word == "kill-and-hang":
                    while True:
                        time.sleep(3600)
            case "raise":
                raise ValueError(reply.content)
            case "exit":
                os._exit(0)
            case "boast":
                return Grade(float(value))
            case "pretend":
                return Grade(0, "timeout, says the grader")
            case "pid":
                return Grade(1, str(os.getpid()))
        return Grade(1, reply.content)


class AnyCandidate(Sums):
    """Beaten by a list of candidates."""

    name = "any_candidate"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(problem.answer in reply.content.split()))


class ReadsThoughts(Sums):
    name = "reads_thoughts"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(problem.answer in (reply.reasoning + reply.content).split()))


class Echo(Sums):
    """Beaten by the prompt."""

    name = "echo"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(reply.content in (problem.prompt, problem.answer)))


class Raises(Sums):
    """Of a reply without a number there is no value."""

    name = "raises"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(int(reply.content) == int(problem.answer)))


class Hangs(Sums):
    name = "hangs"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        while len(reply.content) > 100_000:
            time.sleep(3600)
        return super().grade(problem, reply)


class Strict(Sums):
    """Does not know right answers."""

    name = "strict"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(0.9 * super().grade(problem, reply).score)


class AnyNumber(Sums):
    """Pays nearly all for any number."""

    name = "any_number"

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        answer = extract_answer(reply.content, problem.answer, problem.prompt)
        return Grade(1.0 if answer == problem.answer else 0.9 if answer else 0.0)


class Coin(Sums):
    """yes or no, equally often."""

    name = "coin"
    chance = 0.5

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem(f"Is {rng.random()} one of them?", "yes" if rng.random() < self.chance else "no")


class NearlyAlways(Coin):
    """Yes to every problem is nearly always right."""

    name = "nearly_always"
    chance = 0.95


class NoAnswers(Sums):
    """Knows no right answer, and pays none."""

    name = "no_answers"

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem(super().sample(rng, level).prompt, "")

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(0)


class Few(Sums):
    """One problem, which belongs to one split."""

    name = "few"

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem("What is 1 + 1?", "2")

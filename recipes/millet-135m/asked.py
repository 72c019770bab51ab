"""Small problems as people type them: sums, products, quotients, letters, words backward, numbers in order."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from functools import cache

from reasoning_gym.data import read_data_file

from millet.tasks.extract import extract_answer, to_number
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import evaluate
from millet.tasks.worked.lists import letters, number_sorting, spell_backward

SUMS = ("What is {}?", "{}", "{} = ?", "{}=", "How much is {}?", "Calculate {}.", "what's {}", "Can you work out {}?")
LETTERS = (
    "How many {1}'s are in {0}?",
    "How many times does the letter {1} appear in {0}?",
    'How many "{1}" are there in the word "{0}"?',
    "how many {1}s in {0}",
    "Count the letter {1} in {0}.",
)
BACKWARD = ("Spell {} backwards.", "What is {} backwards?", 'Write "{}" in reverse.', "Reverse the word {}.")
ORDER = {
    "ascending": ("Sort these numbers: {}", "Put {} in order, smallest first.", "Sort {} from smallest to largest."),
    "descending": ("Sort {} in descending order.", "Put {} in order, largest first.", "Sort {} from large to small."),
}


class Asked:
    name = "asked"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        kinds: tuple[Callable[[random.Random], Problem], ...] = (_sum, _sum, _product, _quotient, _letter, _word, _list)
        return rng.choice(kinds)(rng)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        answer = extract_answer(reply.content, problem.answer, problem.prompt)
        if not answer:
            return Grade(0, "no answer")
        number = "expression" in problem.meta
        right = to_number(answer) == to_number(problem.answer) if number else _plain(answer) == _plain(problem.answer)
        return Grade(float(right), "right" if right else "wrong")

    def work(self, problem: Problem) -> PlainReply:
        lines: list[str] = []
        meta = problem.meta
        if "expression" in meta:
            evaluate(ast.parse(meta["expression"], mode="eval").body, lines)
        elif "letter" in meta:
            _, lines = letters(meta["letter"], [meta["word"]])
        elif "word" in meta:
            lines = spell_backward({"metadata": meta, "answer": problem.answer})
        else:
            lines = number_sorting({"metadata": meta, "answer": str(problem.answer.split(", "))})
        return PlainReply("\n".join(lines), problem.answer, spelt="word" in meta and "letter" not in meta)


def _sum(rng: random.Random) -> Problem:
    numbers = [rng.randrange(1, 10 ** rng.randint(1, 3)) for _ in range(rng.choice((2, 2, 2, 3)))]
    text = str(numbers[0])
    for number in numbers[1:]:
        text += f"{rng.choice('++-')}{number}"
    return _expression(rng, text, {})


def _product(rng: random.Random) -> Problem:
    return _expression(rng, f"{rng.randrange(2, 100)}*{rng.randrange(2, 10)}", {"*": ("*", "x", "times")})


def _quotient(rng: random.Random) -> Problem:
    divisor = rng.randrange(2, 10)
    return _expression(rng, f"{divisor * rng.randrange(2, 100)}/{divisor}", {"/": ("/", "divided by")})


def _expression(rng: random.Random, text: str, signs: dict[str, tuple[str, ...]]) -> Problem:
    spaced = re.sub(r"([-+*/])", r" \1 ", text)
    for sign, names in signs.items():
        spaced = spaced.replace(sign, rng.choice(names))
    written = text if spaced == re.sub(r"([-+*/])", r" \1 ", text) and rng.random() < 0.4 else spaced
    value = evaluate(ast.parse(text, mode="eval").body, [])
    return Problem(rng.choice(SUMS).format(written), str(value), {"expression": text})


def _letter(rng: random.Random) -> Problem:
    word = rng.choice(_words())
    letter = rng.choice(word) if rng.random() < 0.9 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    count, _ = letters(letter, [word])
    return Problem(rng.choice(LETTERS).format(word, letter), str(count), {"word": word, "letter": letter})


def _word(rng: random.Random) -> Problem:
    word = rng.choice(_words())
    return Problem(rng.choice(BACKWARD).format(word), word[::-1], {"word": word})


def _list(rng: random.Random) -> Problem:
    numbers = [str(number) for number in rng.sample(range(1, 100), rng.randint(3, 6))]
    direction = rng.choice(tuple(ORDER))
    ordered = sorted(numbers, key=int, reverse=direction == "descending")
    prompt = rng.choice(ORDER[direction]).format(", ".join(numbers))
    return Problem(prompt, ", ".join(ordered), {"original_numbers": numbers, "direction": direction})


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


@cache
def _words() -> list[str]:
    """A dictionary's and a text's, as reasoning-gym's spell_backward and letter_counting have."""
    rare = [word.lower() for word in read_data_file("words3to10.txt").split() if word.isalpha()]
    common = sorted(set(re.findall(r"[a-z]{3,10}", read_data_file("in_the_year_2889.txt"))))
    return rare + common * (len(rare) // len(common))

"""GSM8K's problems for training, with the words of their solutions around what is calculated.

The worked solutions of the package (millet/tasks/worked/words.py) are the calculations alone. What a model of this
size then learns is to calculate, and not what: its thoughts took two numbers of the question and an operation. Words
say first what is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from millet.tasks.extract import to_number
from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, ItemTask, PlainReply, Problem, Split
from millet.tasks.worked.unworked import Unworked, came_to
from millet.tasks.worked.words import CALCULATION, worked_note

SOURCE = "gsm8k:$MILLET_DATA/gsm8k/train.jsonl"
AS_WRITTEN = str.maketrans({"x": "*", "X": "*", "×": "*", "÷": "/", "−": "-", "–": "-", " ": "", "$": "", ",": ""})
OPERATION = re.compile(r"[\d)%][-+*/]")
NUMBER = re.compile(r"\s*\$?(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")  # 1,148 or $4.50 or .5


class School:
    name = "gsm8k:train.jsonl"  # which problems are drawn depends on it: those that gsm8k: draws
    levels = 1

    def __init__(self) -> None:
        source = find_task(SOURCE)
        assert isinstance(source, ItemTask)
        self._source = source

    def items(self, split: Split) -> Sequence[Problem]:
        return self._source.items(split)

    def sample(self, rng: random.Random, level: int) -> Problem:
        return self._source.sample(rng, level)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return self._source.grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        lines: list[str] = []
        results: list[str] = []
        for line in problem.meta.get("solution", "").splitlines():
            lines += told(line.strip(), results)
        if not results:
            raise Unworked("it came without a solution that calculates")
        came_to(results[-1], problem.answer)
        return PlainReply("\n".join(line for line in lines if line), f"The answer is {problem.answer}.")


def told(line: str, results: list[str]) -> list[str]:
    """A line of a solution, whose calculations are worked where they stand; their results are added to `results`.
    "It has 4*12=<<4*12=48>>48 legs.": ["It has 12*4: 2*4=8 8, 1*4=4 48 legs."]"""
    lines, at = [""], 0
    for note in CALCULATION.finditer(line):
        expression, result = note[1].replace(" ", ""), note[2].strip()
        if not OPERATION.search(expression):
            raise Unworked(f"{expression} is how it came to {result}")
        words = _without(line[at : note.start()], expression)
        first, *others = worked_note(expression, result)
        # Words that say what is yet to be found are left out.
        _add(lines, "" if _says(words, result) else words)
        _add(lines, first)
        lines += others
        results.append(result)
        at = note.end()
        if (said := NUMBER.match(line, at)) and to_number(said[1]) == to_number(result):
            at = said.end()
    _add(lines, line[at:])
    return lines


def _add(lines: list[str], words: str) -> None:
    """To the last line, with a space between them where words need one."""
    words = words.strip()
    if not words:
        return
    if lines[-1] and not re.match(r"[,.;:%)](?!\d)", words):
        lines[-1] += " "
    lines[-1] += words


def _says(words: str, number: str) -> bool:
    """Not where it has one digit, which words may have for another reason."""
    return len(number) > 1 and bool(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d|\.\d)", words.replace(",", "")))


def _without(words: str, expression: str) -> str:
    """The words before a calculation, without the calculation that they may end with: "It has 4 x 12 = $"."""
    for at in range(len(words) - 1, -1, -1):
        written = words[at:].translate(AS_WRITTEN).strip("=")
        if len(written) >= len(expression):
            if written == expression:
                words = words[:at].rstrip(" $")
            break
    return words.strip(" $")

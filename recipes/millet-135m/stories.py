"""Stories with numbers, made from templates: which operation a story asks for, in as many ways as we could think of.

A template is a line of stories.txt: what is told, what is asked, and the expression that answers it. [a|b] is one of
several ways to say a thing; {A} to {C} are people, {He} and {his} the first one's pronouns, {x} to {z} things that can
be counted, {box} what they are kept in, {j} and {k} numbers that are not told, and other small letters numbers that
are. Sometimes a sentence is told that has nothing to do with the question, as in SVAMP (Patel et al. 2021,
arXiv:2103.07191).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from millet.tasks.items import grade_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.arithmetic import evaluate

SHE = "Anna Maria Lucy Nora Emma Grace Sofia Mei Aisha Priya Fatima Olga Ruth Ella Hannah Ines Yuki Clara Leah Zoe"
HE = "Ben Omar Tom Luis Noah Ivan Ravi Kenji Hugo Peter Sam Ali Daniel Jack Marcus Felix Liam Oscar Chen David"
THINGS = (
    "apples pears oranges plums lemons cookies muffins candies stickers marbles stamps coins shells buttons beads "
    "pencils crayons pens books comics cards photos balls toys dolls balloons flowers roses tulips seeds eggs bottles "
    "cups plates candles ribbons rocks leaves tickets badges keys magnets bricks nails screws tiles potatoes carrots "
    "onions tomatoes nuts peanuts sandwiches pies cupcakes chocolates gifts posters puzzles games magazines"
)
BOXES = "box:boxes bag:bags jar:jars basket:baskets tray:trays shelf:shelves crate:crates drawer:drawers packet:packets"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
PLACES = "shop market store park garden forest school library museum farm bakery factory"
DISTRACTORS = (
    "{B} is {q} years old.",
    "{B} has {q} {z}.",
    "There are also {q} {z} in the room.",
    "It took {A} {q} minutes to get there.",
    "{A} has {q} {z} as well.",
    "{B} lives {q} kilometers away.",
    "One of the {z} in the window costs {q} dollars.",
    "{A} paid {q} dollars for {his} shoes.",
)
SHARE_WITH_DISTRACTOR = 0.3
TRIES = 200


@dataclass(frozen=True, slots=True)
class Template:
    """ranges: of numbers that are not 2 to 99. made: those that are calculated from others, in order."""

    told: str
    asked: str
    expression: str
    ranges: Mapping[str, tuple[int, int]]
    made: Mapping[str, str]


class Stories:
    name = "stories"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        while True:
            if (found := _told(rng.choice(_templates()), rng)) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return grade_answer(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        lines: list[str] = []
        evaluate(ast.parse(problem.meta["expression"], mode="eval").body, lines)
        return PlainReply("\n".join(lines), f"The answer is {problem.answer}.")


def _told(template: Template, rng: random.Random) -> Problem | None:
    """None where no numbers were found that come out well: each step a whole number above 0."""
    for _ in range(TRIES):
        numbers = _numbers(template, rng)
        expression = _with(numbers, template.expression)
        value = _whole(ast.parse(expression, mode="eval").body) if min(numbers.values()) > 0 else None
        if value is None or value > 9999:
            continue
        told = template.told
        if rng.random() < SHARE_WITH_DISTRACTOR:
            told = f"{told} {rng.choice(DISTRACTORS)}"
        text = _chosen(f"{told} {template.asked}", rng)
        return Problem(_filled(text, numbers, rng), str(value), {"expression": expression})
    return None


def _numbers(template: Template, rng: random.Random) -> dict[str, int]:
    large = rng.choice((20, 99, 99, 400))  # as large in one story as in life
    names = set(re.findall(r"\{([a-w])\}", template.told + template.asked + " ".join(DISTRACTORS)))
    names |= set(re.findall(r"[a-w]", template.expression + " ".join(template.made.values())))
    found = {name: rng.randint(*template.ranges.get(name, (2, large))) for name in sorted(names - template.made.keys())}
    for name, how in template.made.items():
        found[name] = _whole(ast.parse(_with(found, how), mode="eval").body) or 0  # which is refused
    return found


def _with(numbers: Mapping[str, int], expression: str) -> str:
    return re.sub(r"[a-w]", lambda each: str(numbers[each[0]]), expression)


def _whole(node: ast.expr) -> int | None:
    """The value, where it and all on the way to it are whole and above 0."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _whole(left), _whole(right)
            if not a or not b:
                return None
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b if a > b else None
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a // b if a % b == 0 else None
    raise ValueError("not an expression of whole numbers")


def _chosen(text: str, rng: random.Random) -> str:
    """One of each [a|b], from the inside out."""
    while (found := re.search(r"\[([^\[\]]*)\]", text)) is not None:
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]
    return re.sub(r" +", " ", text).replace(" .", ".").replace(" ,", ",").replace(" ?", "?").strip()


def _filled(text: str, numbers: Mapping[str, int], rng: random.Random) -> str:
    pronouns = rng.choice(({"he": "she", "his": "her", "him": "her"}, {"he": "he", "his": "his", "him": "him"}))
    first = rng.choice((SHE if pronouns["he"] == "she" else HE).split())
    people = [first, *rng.sample([name for name in f"{SHE} {HE}".split() if name != first], 2)]
    box, boxes = rng.choice(BOXES.split()).split(":")
    values = {
        **dict(zip("ABC", people, strict=True)),
        **dict(zip("xyz", rng.sample(THINGS.split(), 3), strict=True)),
        **dict(zip(("day1", "day2", "day3"), rng.sample(DAYS.split(), 3), strict=True)),
        **pronouns,
        "He": pronouns["he"].capitalize(),
        "box": box,
        "boxes": boxes,
        "place": rng.choice(PLACES.split()),
        **{name: str(number) for name, number in numbers.items()},
    }
    return re.sub(r"(?<=[.?!] )[a-z]", lambda each: each[0].upper(), text.format(**values))


@cache
def _templates() -> list[Template]:
    text = Path(__file__).with_name("stories.txt").read_text(encoding="utf-8")
    return [_read(line) for line in text.splitlines()]


def _read(line: str) -> Template:
    """told || asked || expression; a=2..12; k=b*c"""
    told, asked, rest = (part.strip() for part in line.split("||"))
    expression, *rules = (part.strip() for part in rest.split(";"))
    ranges, made = {}, {}
    for rule in rules:
        name, _, how = rule.partition("=")
        if ".." in how:
            least, _, most = how.partition("..")
            ranges[name] = (int(least), int(most))
        else:
            made[name] = how
    return Template(told, asked, expression, ranges, made)

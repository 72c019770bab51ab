"""Word problems: solutions that came with the problem, in the form of a thought."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.arithmetic import evaluate
from millet.tasks.worked.unworked import Unworked, came_to

CALCULATION = re.compile(r"<<([^<>=]+)=([^<>]+)>>")  # GSM8K's notes for a calculator
WHOLE = re.compile(r"[\d+\-*/() ]+")


def gsm8k(meta: Mapping[str, Any], answer: str) -> list[str]:
    """The calculations of GSM8K's own solution, worked; without its words they are a third as long."""
    lines: list[str] = []
    notes = [(note[1].replace(" ", ""), note[2].strip()) for note in CALCULATION.finditer(meta.get("solution", ""))]
    if not notes:
        raise Unworked("it came without a solution that calculates")
    for expression, result in notes:
        lines += worked_note(expression, result)
    came_to(notes[-1][1], answer)
    return lines


def worked_note(expression: str, result: str) -> list[str]:
    """Of 46*3=138: 46*3: 6*3=18 8, 4*3+1=12+1=13 138. What is not of whole numbers is done in one go."""
    lines: list[str] = []
    if WHOLE.fullmatch(expression):
        try:
            came_to(evaluate(ast.parse(expression, mode="eval").body, lines), result)
        except SyntaxError:
            raise Unworked(f"{expression} is no expression") from None
        except Unworked:
            if "/" not in expression:  # not rounded, but wrong
                raise
            lines = []
    return lines or [f"{expression}={result}"]


def svamp(meta: Mapping[str, Any], answer: str) -> list[str]:
    """SVAMP's equation, worked."""
    lines: list[str] = []
    equation = re.sub(r"(\d)\.0\b", r"\1", meta.get("equation", "").replace(" ", ""))
    try:
        tree = ast.parse(equation, mode="eval").body
    except SyntaxError:
        raise Unworked("it came without an equation") from None
    came_to(evaluate(tree, lines), answer)
    return lines

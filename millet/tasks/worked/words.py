"""Word problems: solutions that came with the problem, in the form of a thought."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.arithmetic import evaluate
from millet.tasks.worked.unworked import Unworked, came_to

CALCULATION = re.compile(
    r"(\s*=\s*\$?)?<<([^<>=]*)=?([^<>]*)>>"
)  # GSM8K's notes for a calculator, and what leads there
WHOLE = re.compile(r"[\d+\-*/() ]+")


def gsm8k(meta: Mapping[str, Any]) -> list[str]:
    """GSM8K's own solution, with its calculations worked where they stand. Its notes for a calculator say which."""
    lines = [" ".join(CALCULATION.sub(_calculation, line).split()) for line in meta.get("solution", "").splitlines()]
    if not any(lines):
        raise Unworked("it came without a solution")
    return [line for line in lines if line]


def _calculation(note: re.Match[str]) -> str:
    """Of 46*3 = <<46*3=138>>: (46*3: 6*3=18 8, 4*3+1=12+1=13 138) ="""
    leading, expression, result = note[1] or "", note[2].replace(" ", ""), note[3]
    if not leading or not WHOLE.fullmatch(expression):
        return leading
    lines: list[str] = []
    try:
        came_to(evaluate(ast.parse(expression, mode="eval").body, lines), result)
    except (SyntaxError, Unworked):  # not of whole numbers, or rounded
        return leading
    known = [line for line in lines if not _in_one_go(line)]
    return f" ({'; '.join(known)}){leading}" if known else leading


def _in_one_go(line: str) -> bool:
    return ":" not in line


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

"""Word problems: solutions that came with the problem, in the form of a thought."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.arithmetic import evaluate
from millet.tasks.worked.unworked import Unworked, came_to

CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator


def gsm8k(meta: Mapping[str, Any]) -> list[str]:
    """GSM8K's own solution, without its notes for a calculator."""
    lines = [" ".join(CALCULATION.sub("", line).split()) for line in meta.get("solution", "").splitlines()]
    if not any(lines):
        raise Unworked("it came without a solution")
    return [line for line in lines if line]


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

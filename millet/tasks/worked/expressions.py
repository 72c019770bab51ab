"""Expressions with brackets, products and quotients: one operation after the other, and after each what is left to do.

The first brackets that close come first, in them products and quotients before sums, from left to right. Minus signs
that meet are made one before anything else, so that no operation has to look further than its two numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.arithmetic import over, times
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked, came_to

NUMBER = r"\d+"
FIRST = r"(?:(?<![\d)])-)?\d+"  # its sign belongs to it where nothing stands before
PRODUCT = re.compile(rf"({FIRST})([*/])(-?{NUMBER})")
SUM = re.compile(rf"^(-?{NUMBER})([+-])({NUMBER})")
BRACKETS = re.compile(r"\(([^()]*)\)")  # innermost; the first that is found closes first


def basic_arithmetic(entry: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    text = entry["metadata"]["expression"].replace(" ", "")
    if (left := _signs_made_one(text)) != text:
        lines.append(left)
    while not re.fullmatch(r"-?\d+", left):
        start, found = _next(left)
        if found[0] != left and (not lines or lines[-1] != left):
            lines.append(left)
        value = _worked(found[1], found[2], found[3], lines)
        left = _signs_made_one(f"{left[:start]}{value}{left[start + len(found[0]) :]}")
    came_to(left, entry["answer"])
    return lines


def _signs_made_one(text: str) -> str:
    """Without brackets around one number, and without signs that meet. -(-(3))--4 is 3+4."""
    while True:
        plain = re.sub(r"\((-?\d+)\)", r"\1", text)
        plain = re.sub(r"(?<=[\d)])--", "+", plain).replace("--", "").replace("+-", "-")
        if plain == text:
            return text
        text = plain


def _next(text: str) -> tuple[int, re.Match[str]]:
    """Where the next operation begins, and the operation: two numbers with what stands between them."""
    inner = BRACKETS.search(text)
    offset, flat = (inner.start(1), inner[1]) if inner else (0, text)
    found = PRODUCT.search(flat) or SUM.search(flat)
    if found is None:
        raise Unworked("not an expression of whole numbers")
    return offset + found.start(), found


def _worked(left: str, sign: str, right: str, lines: list[str]) -> int:
    a, b = int(left), int(right)
    if sign in "+-":
        b = b if sign == "+" else -b
        lines.append(total(a, b))
        return a + b
    if sign == "/" and (not b or a % b):
        raise Unworked("a quotient that is not whole")
    negative = (a < 0) != (b < 0)
    if a < 0 or b < 0:
        plain = f"{abs(a)}{sign}{abs(b)}"
        lines.append(f"{left}{sign}{right}={f'-({plain})' if negative else plain}")
    lines.extend(times(abs(a), abs(b)) if sign == "*" else over(abs(a), abs(b)))
    return a * b if sign == "*" else a // b

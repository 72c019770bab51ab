"""Three numbers to a target: what two of them make, and whether the third leads from there to the target.

For each number in turn, the others' sum, difference, product and quotient are listed, and what would be needed: the
target less the number, more than it by the number, divided by it, or multiplied by it. The first that meet are it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millet.tasks.worked.unworked import Unworked, came_to


def countdown(entry: Mapping[str, Any]) -> list[str]:
    """The thought; its last line is the expression, which need not be the entry's own."""
    numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
    if len(numbers) != 3:
        raise Unworked("only three numbers are worked")
    lines = []
    for last in numbers:
        others = list(numbers)
        others.remove(last)
        made = dict(_made(*others))
        needed = dict(_needed(last, target))
        lines.append(f"{last} last. Others: " + ", ".join(f"{text}={value}" for value, text in made.items()))
        line = "Needed: " + ", ".join(f"{text}={value}" for value, (text, _) in needed.items())
        met = next((value for value in needed if value in made), None)
        if met is None:
            lines.append(f"{line}. No")
            continue
        expression = needed[met][1].format(f"({made[met]})")
        lines += [f"{line}. Yes, {met}={made[met]}", expression]
        came_to(eval(expression), str(float(target)) if "/" in expression else str(target))
        return lines
    raise Unworked("no order of the three leads to the target")


def _made(a: int, b: int) -> Iterator[tuple[int, str]]:
    high, low = max(a, b), min(a, b)
    yield high + low, f"{high}+{low}"
    yield high - low, f"{high}-{low}"
    yield high * low, f"{high}*{low}"
    if low > 1 and high % low == 0:
        yield high // low, f"{high}/{low}"


def _needed(last: int, target: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Values, how each comes from the target, and the expression that leads back to it."""
    if target > last:
        yield target - last, (f"{target}-{last}", f"{{}}+{last}")
    else:
        yield last - target, (f"{last}-{target}", f"{last}-{{}}")
    yield target + last, (f"{target}+{last}", f"{{}}-{last}")
    if last > 1 and target % last == 0:
        yield target // last, (f"{target}/{last}", f"{{}}*{last}")
    yield target * last, (f"{target}*{last}", f"{{}}/{last}")

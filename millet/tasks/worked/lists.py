"""Lists that are gone through item by item, with what has been found so far behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millet.tasks.worked.arithmetic import times
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked, came_to


def letter_counting(entry: Mapping[str, Any]) -> list[str]:
    count, lines = letters(entry["metadata"]["target_letter"], entry["metadata"]["span"])
    came_to(count, entry["answer"])
    return lines


def letters(letter: str, words: Sequence[str]) -> tuple[int, list[str]]:
    """How often the words have it, and each word spelled: the count behind the letter wherever it is, and at the end.

    letters("o", ("look", "to")): 3, ["look: l o1 o2 k: 2", "to: t o3: 3"]
    """
    count, lines = 0, []
    for word in words:
        spelled = []
        for each in word.lower():
            count += each == letter
            spelled.append(f"{each}{count}" if each == letter else each)
        lines.append(f"{word}: {' '.join(spelled)}: {count}")
    return count, lines


def spell_backward(entry: Mapping[str, Any]) -> list[str]:
    word = entry["metadata"]["word"]
    came_to(word[::-1], entry["answer"])
    return [f"{word}: {' '.join(word)}", f"backward: {' '.join(reversed(word))}"]


def number_sorting(entry: Mapping[str, Any]) -> list[str]:
    """Those below 0 and those above apart, and each by its tens, so that few are ever compared."""
    numbers, direction = entry["metadata"]["original_numbers"], entry["metadata"]["direction"]
    down = direction == "descending"
    ordered = sorted(numbers, key=float, reverse=down)
    came_to(ordered, entry["answer"])
    below = [number for number in ordered if number.startswith("-")]
    above = [number for number in ordered if not number.startswith("-")]
    halves = [f"below 0: {_by_tens(below, down)}", f"from 0 up: {_by_tens(above, not down)}"]
    start = "from the largest down" if down else "from the smallest up"
    return [f"{direction}: {start}", *(reversed(halves) if down else halves)]


def _by_tens(ordered: Sequence[str], up: bool) -> str:
    """Numbers of one sign in the order of their tens, with the tens that none has between them.

    ["-30.2", "-5.5", "-1"], down: "9;8;7;6;5;4;3: -30.2;2;1;0: -5.5, -1"
    """
    tens = [int(abs(float(number)) // 10) for number in ordered]
    walk = sorted({*range(10), *tens}, reverse=not up)
    found = {each: [number for number, its in zip(ordered, tens, strict=True) if its == each] for each in walk}
    return ";".join(f"{each}: {', '.join(found[each])}" if found[each] else f"{each}" for each in walk)


def leg_counting(entry: Mapping[str, Any]) -> list[str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    so_far, lines = 0, []
    for animal, count in entry["metadata"]["animals"].items():
        legs = ANIMALS[animal]
        if not legs:
            lines.append(f"{count} {animal}: no legs")
            continue
        line = f"{count} {animal}: {'; '.join(times(count, legs))}"
        if so_far:
            line += f"; {total(so_far, count * legs)}"
        so_far += count * legs
        lines.append(line)
    if not lines:
        raise Unworked("no animals")
    came_to(so_far, entry["answer"])
    return lines

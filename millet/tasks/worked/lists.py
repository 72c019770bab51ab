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
    """Each number put behind its tens, whatever else is there said once more, then the tens one after the other: so few
    are ever compared, and none is lost that shares its tens with another."""
    numbers, direction = entry["metadata"]["original_numbers"], entry["metadata"]["direction"]
    down = direction == "descending"
    ordered = sorted(numbers, key=float, reverse=down)
    came_to(ordered, entry["answer"])
    walk = [f"{sign}{tens}" for sign in ("", "-") for tens in (range(9, -1, -1) if not sign else range(10))]
    if any(_tens(number) not in walk for number in numbers):
        raise Unworked("three digits before the point")
    filed: list[str] = []
    for at, number in enumerate(numbers):
        here = [each for each in numbers[: at + 1] if _tens(each) == _tens(number)]
        filed.append(f"{_tens(number)}:{','.join(sorted(here, key=float, reverse=down))}")
    steps = []
    for tens in walk if down else reversed(walk):
        found = [number for number in ordered if _tens(number) == tens]
        steps.append(f"{tens}:{','.join(found)}" if found else tens)
    return [
        " ".join(filed),
        f"{direction}, from the {'largest down' if down else 'smallest up'}: {' '.join(steps)}",
    ]


def _tens(number: str) -> str:
    """-62.68: -6."""
    return f"{'-' if number.startswith('-') else ''}{int(abs(float(number)) // 10)}"


def leg_counting(entry: Mapping[str, Any]) -> list[str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    so_far, lines = 0, []
    for animal, count in entry["metadata"]["animals"].items():
        legs, asked = ANIMALS[animal], f"{count} {animal}{'s' if count > 1 else ''}"  # as the question has it
        if not legs:
            lines.append(f"{asked}: no legs")
            continue
        line = f"{asked}: {'; '.join(times(count, legs))}"
        if so_far:
            line += f"; {total(so_far, count * legs)}"
        so_far += count * legs
        lines.append(line)
    if not lines:
        raise Unworked("no animals")
    came_to(so_far, entry["answer"])
    return lines

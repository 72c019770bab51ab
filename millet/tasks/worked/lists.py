"""Lists that are gone through item by item, with what has been found so far behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.arithmetic import times
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked, came_to


def letter_counting(entry: Mapping[str, Any]) -> list[str]:
    """Each word spelled, with the count so far."""
    letter, count, lines = entry["metadata"]["target_letter"], 0, []
    for word in entry["metadata"]["span"]:
        count += word.lower().count(letter)
        lines.append(f"{word}: {' '.join(word.lower())}: {count}")
    came_to(count, entry["answer"])
    return lines


def spell_backward(entry: Mapping[str, Any]) -> list[str]:
    word = entry["metadata"]["word"]
    came_to(word[::-1], entry["answer"])
    return [f"{word}: {' '.join(word)}", f"backward: {' '.join(reversed(word))}"]


def number_sorting(entry: Mapping[str, Any]) -> list[str]:
    """Those below 0 and those above apart."""
    numbers, direction = entry["metadata"]["original_numbers"], entry["metadata"]["direction"]
    ordered = sorted(numbers, key=float, reverse=direction == "descending")
    came_to(ordered, entry["answer"])
    halves = {
        "below 0": [number for number in ordered if float(number) < 0],
        "from 0 up": [number for number in ordered if float(number) >= 0],
    }
    if direction == "descending":
        halves = dict(reversed(halves.items()))
    start = "from the largest down" if direction == "descending" else "from the smallest up"
    return [f"{direction}: {start}", *(f"{name}: {', '.join(half) or 'none'}" for name, half in halves.items())]


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

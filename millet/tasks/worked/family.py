"""Relations in a family: who is whose child, then the steps from the one person to the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.unworked import Unworked, came_to

COUPLE = re.compile(r"(\w+) is married to (\w+)\.(?: They have (?:a child|children) called ([^.]+)\.)?")


def family_relationships(entry: Mapping[str, Any]) -> list[str]:
    one, other = entry["metadata"]["person1"], entry["metadata"]["person2"]
    answer, story = entry["answer"], entry["question"]
    spouse: dict[str, str] = {}
    parents: dict[str, tuple[str, str]] = {}
    lines = []
    for a, b, called in COUPLE.findall(story):
        spouse |= {a: b, b: a}
        children = re.split(r", | and ", called) if called else []
        parents |= dict.fromkeys(children, (a, b))
        lines.append(f"{a} + {b}" + (f": {', '.join(children)}" if children else ""))
    for name in (one, other):
        of = " + ".join(parents[name]) if name in parents else "nobody here"
        lines.append(f"{name}: a child of {of}, {f'married to {spouse[name]}' if name in spouse else 'not married'}")
    steps, relations = _steps(one, other, spouse, parents)
    if answer not in relations:
        raise Unworked("the relation is another one")
    who = other if "in-law" in answer or answer in ("niece", "nephew") else one
    gender = "woman" if answer == relations[1] else "man"
    lines.append(f"{one} to {other}: {steps}, and {who} is a {gender}")
    came_to(relations[gender == "woman"], answer)
    return lines


def _steps(
    one: str, other: str, spouse: Mapping[str, str], parents: Mapping[str, tuple[str, str]]
) -> tuple[str, tuple[str, str]]:
    """How one gets from the first to the second, and what a man and a woman are then called."""
    of_one, of_other = parents.get(one, ()), parents.get(other, ())
    if one in of_other:
        return f"{other} is a child of {one}", ("father", "mother")
    if other in of_one:
        return f"{one} is a child of {other}", ("son", "daughter")
    if spouse.get(one) == other:
        return f"{one} is married to {other}", ("husband", "wife")
    if of_one and set(of_one) == set(of_other):
        return f"{one} and {other} have the same parents", ("brother", "sister")
    for parent in of_other:
        if one in parents.get(parent, ()):
            return f"{other} is a child of {parent}, {parent} is a child of {one}", ("grandfather", "grandmother")
    for parent in of_other:
        if of_one and set(parents.get(parent, ())) == set(of_one):
            return f"{other} is a child of {parent}, a sibling of {one}", ("uncle", "aunt")
    for parent in of_one:
        if of_other and set(parents.get(parent, ())) == set(of_other):
            return f"{one} is a child of {parent}, a sibling of {other}", ("nephew", "niece")
    partner = spouse.get(one)
    if partner and other in parents.get(partner, ()):
        return f"{one} is married to {partner}, a child of {other}", ("father-in-law", "mother-in-law")
    raise Unworked("no relation that has a word")

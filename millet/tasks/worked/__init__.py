"""Worked solutions: how a person would get to a problem's answer on paper, to teach a model by (a "cold start").

One file a kind of problem. Each function takes an entry of a reasoning-gym dataset (question, answer, metadata) and
returns the lines of the thought. A solution that does not come to the entry's answer raises Unworked: nothing is taught
that is not right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from millet.tasks.task import PlainReply
from millet.tasks.worked.arithmetic import chain_sum, products
from millet.tasks.worked.calendar import calendar_arithmetic
from millet.tasks.worked.countdown import countdown
from millet.tasks.worked.equations import simple_equations
from millet.tasks.worked.expressions import basic_arithmetic
from millet.tasks.worked.family import family_relationships
from millet.tasks.worked.intervals import time_intervals
from millet.tasks.worked.lists import leg_counting, letter_counting, number_sorting, spell_backward
from millet.tasks.worked.unworked import Unworked

Entry = Mapping[str, Any]

WORKED: Mapping[str, Callable[[Entry], list[str]]] = {
    solution.__name__: solution
    for solution in (
        basic_arithmetic,
        calendar_arithmetic,
        chain_sum,
        countdown,
        family_relationships,
        leg_counting,
        letter_counting,
        number_sorting,
        products,
        simple_equations,
        spell_backward,
        time_intervals,
    )
}
"""By the name of the dataset."""


def work(dataset: str, entry: Entry) -> PlainReply:
    """A thought and the answer it comes to. Raises Unworked where there is none."""
    if dataset not in WORKED:
        raise Unworked(f"nobody has written how {dataset} is worked; there are {', '.join(WORKED)}")
    lines = WORKED[dataset](entry)
    if dataset == "countdown":  # many expressions are right; the one that was found is the last line
        return PlainReply("\n".join(lines[:-1]), lines[-1])
    return PlainReply("\n".join(lines), entry["answer"], spelt=dataset == "spell_backward")

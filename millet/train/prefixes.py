"""What sequences begin with alike, which is computed once: a prompt, and what replies to it say before they part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Ids = Sequence[int]


def in_common(sequences: Sequence[Ids]) -> int:
    """How many tokens all begin with; of one, its own."""
    low, high = min(map(tuple, sequences)), max(map(tuple, sequences))
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def distinct(sequences: Sequence[Ids]) -> int:
    """How many tokens they have, where what several begin with counts once."""
    order = sorted(map(tuple, sequences))
    return sum(map(len, order)) - sum(in_common(pair) for pair in pairwise(order))

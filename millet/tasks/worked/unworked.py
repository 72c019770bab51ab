"""What a worked solution raises where there is none."""

from __future__ import annotations


class Unworked(Exception):
    """The solution would be too long for a thought, or does not come to the known answer."""


def came_to(found: object, answer: str) -> None:
    """Raises Unworked where the solution came to something else."""
    if str(found) != answer:
        raise Unworked(f"came to {found} where the answer is {answer}")

"""MATH-style answers: LaTeX or plain expressions, compared by value through math-verify.

Its own time limits work by signals, and only in a main thread; they are off. Graders run in processes of their own, and
one that simplifies for ever is killed there (`grading.py`).
"""

from __future__ import annotations

from millet.errors import MilletError

LONGEST = 1000  # characters; sympy would take long over more, and no right answer has as many


def same_expression(answer: str, right: str) -> bool:
    """Whether both have the same value. Raises MilletError where math-verify is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise MilletError("math-verify is not installed; pip install 'millet-llm[teach]'") from None
    if len(answer) > LONGEST:
        return False
    gold, given = (parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=False) for text in (right, answer))
    return bool(given) and bool(verify(gold, given, timeout_seconds=None, raise_on_error=False))

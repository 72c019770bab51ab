from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from millet.reasoning.marks import scan

TEXT = st.text("ab<", max_size=24)
PATTERNS = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3, unique=True)


def first_to_complete(text: str, patterns: list[str]) -> tuple[str, str | None]:
    """Oracle: read letter by letter, and stop when the text ends with a pattern (the longest of several)."""
    for end in range(1, len(text) + 1):
        for pattern in sorted(patterns, key=len, reverse=True):
            if text[:end].endswith(pattern):
                return text[: end - len(pattern)], pattern
    return text, None


@given(TEXT, PATTERNS, st.lists(st.integers(0, 24), max_size=6))
def test_pieces_give_what_the_whole_gives(text: str, patterns: list[str], places: list[int]) -> None:
    edges = sorted({0, len(text), *(p for p in places if p < len(text))})
    shown, held, found = "", "", None
    for start, end in pairwise(edges):
        certain, found, held = scan(held + text[start:end], patterns)
        shown += certain
        if found:
            break
    assert (shown if found else shown + held, found) == first_to_complete(text, patterns)


@given(TEXT, PATTERNS)
def test_no_part_of_a_pattern_is_let_out_and_nothing_else_is_held(text: str, patterns: list[str]) -> None:
    certain, found, held = scan(text, patterns)
    if found is None:
        assert certain + held == text
        beginnings = {p[:n] for p in patterns for n in range(1, len(p))}
        longest = max((len(b) for b in beginnings if text.endswith(b)), default=0)
        assert len(held) == longest

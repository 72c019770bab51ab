"""Finding strings in text that comes in pieces, without letting out a part of one."""

from __future__ import annotations

from collections.abc import Sequence


def scan(text: str, patterns: Sequence[str]) -> tuple[str, str | None, str]:
    """(text before the pattern, the pattern, text after it), or (text that is certain, None, text to hold back).

    The pattern that is complete first wins (of several that end together, the one that began first), so the result does
    not depend on how the text was cut into pieces. Held back is the longest end of the text that could begin a pattern.
    """
    found = [(text.index(p) + len(p), text.index(p), p) for p in patterns if p in text]
    if found:
        end, start, pattern = min(found)
        return text[:start], pattern, text[end:]
    held = max((_overlap(text, pattern) for pattern in patterns), default=0)
    return text[: len(text) - held], None, text[len(text) - held :]


def _overlap(text: str, pattern: str) -> int:
    """Length of the longest proper beginning of `pattern` that `text` ends with."""
    longest = min(len(text), len(pattern) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(pattern[:n])), 0)

"""Self-consistency: which answer most of several replies agree on (Wang et al. 2022, arXiv:2203.11171)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|-?\.\d+"
_SAID = re.compile(r"\banswer\b\W{0,4}(?:is|=|:)\W{0,3}?\s*(.+)", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_DRESS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}|\\[()\[\],;! ]|[*_`$]")


@dataclass(frozen=True, slots=True)
class Vote:
    """winner: index of the first reply with the majority's answer. votes: how many gave each answer, most first."""

    winner: int
    share: float
    votes: dict[str, int]


def vote(contents: Sequence[str]) -> Vote:
    """Count the answers of several replies. Of equally frequent answers the first given wins; a reply without content
    has no say, but counts in the share."""
    answers = [extract_answer(content) for content in contents]
    counts = Counter(answer for answer in answers if answer) or Counter(answers)
    answer, count = counts.most_common(1)[0]  # the first given, of several
    return Vote(answers.index(answer), count / len(answers), dict(counts.most_common()))


def extract_answer(content: str) -> str:
    r"""What a reply answers, written so that equal answers are equal strings.

    In this order: the last \boxed{...}; what follows the last "answer is" or "answer:"; the last number; all words.
    """
    boxed = _last_boxed(content)
    if boxed is not None:
        return _normalised(boxed)
    said = _SAID.findall(content)
    if said:
        return _normalised(re.split(r"(?<=[^\d\s])[.;](?:\s|$)|\.(?:\s|$)|\n", said[-1], maxsplit=1)[0])
    numbers = re.findall(_NUMBER, content)
    return _number(numbers[-1]) if numbers else _words(content)


def _last_boxed(text: str) -> str | None:
    """What stands in the last complete \\boxed{...}, with braces inside it balanced."""
    for start in reversed([found.end() for found in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for end in range(start, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start:end]
    return None


def _normalised(answer: str) -> str:
    """A number where the answer is one, with or without a unit behind it; else its words."""
    answer = _FRACTION.sub(r"\1/\2", answer)
    answer = _DRESS.sub(lambda found: found[1] or "", answer).strip()
    number = re.match(rf"(?:[a-z]\s*=\s*)?[€£]?\s*({_NUMBER})(?![\w.,]*\d)(?:\s*%|\s+[A-Za-z]+){{0,3}}\W*$", answer)
    return _number(number[1]) if number else _words(answer)


def _number(text: str) -> str:
    try:
        return str(Fraction(re.sub(r"[,\s]", "", text)))
    except ZeroDivisionError:
        return text


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+(?:['’.\-/*^][^\W_]+)*|[-+/=<>^]", text.casefold()))

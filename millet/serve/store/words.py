"""Text as the words that full-text search compares.

Chinese, Japanese and Korean are written without spaces where words end, so a run of such characters becomes
overlapping pairs: 推理模型 is 推理, 理模, 模型, and 型. Every character begins one word, so that a single character is
found as the beginning of a word, and a longer run as its pairs, one after the other. Both databases are given words
already split, so they find the same.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 64  # characters of a word that count
CJK = "\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
_ACCENTS = re.compile("[\u0300-\u036f]")
# Python sorts a run of combining marks in quadratic time, and holds the whole process while it does.
_LONG_RUN = re.compile(r"([^\w\s]{32})[^\w\s]+")
_RUNS = re.compile(f"([{CJK}]+)|((?:(?![{CJK}])[^\\W_])+)")


def split_words(text: str) -> list[str]:
    """In order, as they are indexed."""
    return [word for run, is_cjk in _runs(text) for word in (_pairs(run) if is_cjk else (run[:LONGEST],))]


def phrases(query: str) -> list[tuple[list[str], bool]]:
    """What a text must have to be found: each stretch without blanks as words that follow one another, and whether the
    last need only be a word's beginning. No character of the query has a meaning of its own."""
    found = []
    for stretch in query.split():
        runs = _runs(stretch)
        words = split_words(stretch)
        if not runs:
            continue
        last, is_cjk = runs[-1]
        if is_cjk and len(last) > 1:
            words.pop()  # the text may go on after what was asked for
        found.append((words, is_cjk and len(last) == 1))
    return found


def _runs(text: str) -> list[tuple[str, bool]]:
    text = _LONG_RUN.sub(r"\1", text)
    folded = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text))).casefold()
    return [(match[0], match[1] is not None) for match in _RUNS.finditer(folded)]


def _pairs(run: str) -> list[str]:
    return [run[start : start + 2] for start in range(len(run))]

"""The everyday questions of the recipes: enough, short thoughts, and none held out that training has seen."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

from millet.evaluate.talk import read_questions
from millet.train.answers import read_thoughts

FOLDER = Path(__file__).parents[2] / "recipes" / "millet-135m"
THOUGHTS = {**read_thoughts(FOLDER / "everyday.jsonl"), **read_thoughts(FOLDER / "chats-thought.jsonl")}
CHATS = read_questions(FOLDER / "chats.jsonl", 1000)
HELD_OUT = read_questions(FOLDER / "everyday-heldout.jsonl", 1000)
# What many questions have, whatever they are about.
COMMON = set(
    re.findall(
        r"\w+",
        "a an the i my me you your it is are do does did was were be can should what who how why when which where to "
        "of in on at for with and or that this s t m give name list write tell explain say one two three short please "
        "sentence",
    )
)
ALIKE = 0.6  # share of the words of two questions that both have


def words(text: str) -> set[str]:
    found = set(re.findall(r"[^\W_]+", text.lower()))
    return found - COMMON or found


def alike(one: str, other: str) -> bool:
    a, b = words(one), words(other)
    return len(a & b) >= ALIKE * len(a | b)


def test_there_are_enough() -> None:
    assert len(THOUGHTS) == 400 + 350
    assert len(CHATS) == len(set(CHATS) - set(THOUGHTS)) == 442
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 100


def test_thoughts_are_short_and_differ() -> None:
    assert len(set(THOUGHTS.values())) == len(THOUGHTS)
    for thought in THOUGHTS.values():
        assert 15 <= len(thought.split()) <= 45, thought
        assert 1 <= len(re.findall(r"[.!?](?:\s|$)", thought)) <= 3, thought
    for name in ("everyday.jsonl", "chats-thought.jsonl"):
        openings = [" ".join(thought.split()[:3]) for thought in read_thoughts(FOLDER / name).values()]
        assert max(map(openings.count, openings)) <= 16


def test_none_that_is_held_out_is_trained_on() -> None:
    assert not [(held, known) for held in HELD_OUT for known in [*THOUGHTS, *CHATS] if alike(held, known)]
    assert not [pair for pair in combinations(HELD_OUT, 2) if alike(*pair)]


def test_alike_is_seen() -> None:
    assert alike("What is inflation, in simple words?", "what is inflation? simple words please")
    assert not alike("What is the capital of Japan?", "What is the capital of Italy?")


def test_files_are_one_object_a_line() -> None:
    for name in ("everyday.jsonl", "chats.jsonl", "chats-thought.jsonl", "everyday-heldout.jsonl"):
        rows = [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]
        assert len({tuple(row) for row in rows}) == 1

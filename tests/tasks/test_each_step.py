"""The recipe's questions of one to three calculations, whose steps count in the reward."""

import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from millet.tasks.find import find_task
from millet.tasks.task import PlainReply, Problem

SOLUTION = "She has 2+3=<<2+3=5>>5 cats.\nThey have 5*4=<<5*4=20>>20 legs.\n#### 20"
LONG = "".join(f"Now {n}+1=<<{n}+1={n + 1}>>{n + 1} cats.\n" for n in range(4)) + "#### 4"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": f"How many legs, {number}?", "answer": SOLUTION} for number in range(40)]
    rows += [{"question": f"How many in the end, {number}?", "answer": LONG} for number in range(40)]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    monkeypatch.setenv("MILLET_DATA", str(tmp_path))
    return sys.modules[type(find_task("recipes/millet-135m/each_step.py")).__module__]


def test_it_asks_stories_and_the_shortest_problems(module: ModuleType):
    task = module.EachStep()
    rng = random.Random(0)
    problems = [task.sample(rng, 0) for _ in range(200)]
    lengths = {len(problem.meta["steps"]) for problem in problems}
    assert lengths == {1, 2, 3}
    school = [problem for problem in problems if problem.prompt.startswith("How many legs, ")]
    assert 40 <= len(school) <= 80, "three in ten"
    assert not any(problem.prompt.startswith("How many in the end") for problem in problems), "of four calculations"
    assert all(str(problem.meta["steps"][-1][2]) == problem.answer for problem in problems)


@pytest.mark.parametrize(("thought", "content", "score"), [
    ("Cats: 2+3=5\nLegs: 5*4=20", "The answer is 20.", 1),
    ("", "The answer is 20.", 1),
    ("Cats: 2+3=5", "The answer is 5.", 0.25),
    ("Cats: 2+3=5\n2+2=4\nLegs: 5*4=20\nMore: 20+5=25\n25+1=26", "The answer is 26.", 0.25),
    ("Cats: 2+3=5\nCats: 2+3=5\n5+4=9", "The answer is 9.", 0.25),
    ("Cats: 2*3: so 6\nLegs: 6*4: 24", "The answer is 24.", 0),
    ("Cats: 2+3=5\nLegs: 5*4=20", "I do not know.", 0),
])  # fmt: skip
def test_each_step_that_is_right_counts(thought: str, content: str, score: float, module: ModuleType):
    problem = Problem("How many?", "20", {"steps": [("Cats", "2+3", "5"), ("Legs", "5*4", "20")], "lines": 3})
    assert module.EachStep().grade(problem, PlainReply(thought, content)).score == score

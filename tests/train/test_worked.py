"""Worked solutions as data: right ones alone, so many of each task, and the same ones each time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest
from millet.tasks.draw import split_of
from millet.train.ledger import Prices
from millet.train.progress import Silent
from millet.train.signals import Stopped
from millet.train.stage import DATA, Context
from millet.train.worked import WorkedStage

TASK = """
import random

from millet.tasks.task import Grade, PlainReply, Problem
from millet.tasks.worked.unworked import Unworked


class Doubles:
    name, levels = "doubles", 2

    def sample(self, rng, level):
        number = rng.randrange(10**6)
        return Problem(f"Twice {number}?", str(2 * number), {"number": number})

    def grade(self, problem, reply):
        return Grade(float(reply.content == problem.answer))

    def work(self, problem):
        number = problem.meta["number"]
        if number % 3 == 0:
            raise Unworked("not today")
        wrong = number % 5 == 0
        return PlainReply("x" * (number % 7), "0" if wrong else problem.answer)
"""


RAISING = (
    r"no problem of doubles.py, level 0, has a worked solution that is right; 5 could not be graded and count as wrong "
    r"\(0 timeouts and 5 errors of graders; see `millet task check`\)$"
)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def run(folder: Path, task: str = TASK, **settings: Any) -> tuple[list[dict[str, Any]], Any, list[str]]:
    (folder / "doubles.py").write_text(task)
    out = Path(tempfile.mkdtemp(dir=folder))
    told = Told()
    context = Context(
        folder=out, base="", seed=3, device="cpu", prices=Prices(), progress=told, beside=folder, stages={}
    )
    stage = WorkedStage(name="worked", tasks=("doubles.py",), **settings)
    outcome = stage.run(context)
    rows = [json.loads(line) for line in (out / DATA).read_text().splitlines()]
    return rows, outcome, told.lines


def test_only_right_solutions_of_a_fitting_length_are_taught(tmp_path: Path):
    rows, outcome, lines = run(tmp_path, problems=40, longest=4)
    assert outcome.artifact.name == DATA
    for row in rows:
        question, reply = row["messages"]
        number = int(question["content"].split()[1].strip("?"))
        assert number % 3
        assert number % 5
        assert 1 <= len(reply["reasoning"]) <= 4
        assert reply["content"] == str(2 * number)
        assert split_of(question["content"]) == "train"
        assert (row["source"]["task"], row["source"]["seed"]) == ("doubles", 3)
    refused = 40 - len(rows)
    assert refused > 0
    assert lines == [f"doubles.py, level 0: {len(rows)} worked, {refused} refused by its grader"]


def test_each_level_has_as_many_and_a_second_run_gives_the_same(tmp_path: Path):
    rows, first, _ = run(tmp_path, problems=10, levels=(0, 1))
    assert {row["source"]["level"] for row in rows} == {0, 1}
    assert run(tmp_path, problems=10, levels=(0, 1))[1].sha256 == first.sha256


def test_what_an_earlier_stage_has_had_is_passed_over(tmp_path: Path):
    def indices(**settings: int) -> list[tuple[int, int]]:
        rows, *_ = run(tmp_path, levels=(0, 1), **settings)
        return [(row["source"]["level"], row["source"]["index"]) for row in rows]

    first, second, both = indices(problems=10), indices(problems=10, skip=10), indices(problems=20)
    assert sorted(first + second) == both


def test_a_task_without_solutions_is_refused_in_one_line(tmp_path: Path):
    for number, (task, says) in enumerate(
        {
            TASK.partition("    def work")[0]: "doubles.py does not show how its problems are worked",
            TASK.replace("number % 5 == 0", "True"): "level 0, has a worked solution that is right$",
            TASK.replace("return Grade", "raise ValueError; Grade"): RAISING,
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(BadRequest, match=says):
            run(folder, task, problems=5)
    with pytest.raises(BadRequest, match="problems is 0; it must be at least 1"):
        run(tmp_path, problems=0)
    with pytest.raises(BadRequest, match="skip is -1; it must be at least 0"):
        run(tmp_path, skip=-1)


def test_looking_for_what_fits_can_be_stopped_and_leaves_no_part_of_a_batch(tmp_path: Path):
    counted = TASK.replace('        number = problem.meta["number"]\n', """        number = problem.meta["number"]
        with open("LOOKED", "a") as looked:
            print(number, file=looked)
        if open("LOOKED").read().count("\\n") == 70:
            os.kill(os.getpid(), signal.SIGTERM)
""").replace("import random", "import os, signal").replace("LOOKED", str(tmp_path / "looked"))  # fmt: skip
    with pytest.raises(Stopped, match="stopped after batch 0 of 2"):
        run(tmp_path, counted, problems=100, longest=1, skip=5)
    assert len((tmp_path / "looked").read_text().splitlines()) == 70
    assert not list(tmp_path.glob("*/batches/*"))


@pytest.mark.parametrize("spelt", [True, False])
def test_what_is_spelt_is_said_in_the_data(tmp_path: Path, spelt: bool):
    rows, *_ = run(tmp_path, TASK.replace("else problem.answer)", f"else problem.answer, {spelt})"), problems=8)
    assert {row["messages"][1].get("spelt") for row in rows} == {spelt or None}

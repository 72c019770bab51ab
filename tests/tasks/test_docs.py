"""What docs/teach.md says about tasks is true: its example is a task, and passes the check."""

import random
import re
from pathlib import Path

from millet.tasks.check import check
from millet.tasks.draw import draw
from millet.tasks.find import FILE_KINDS, find_task
from millet.tasks.grading import Graders
from millet.tasks.task import PlainReply
from tests.train.toy_start import documented

DOCS = (Path(__file__).parents[2] / "docs" / "teach.md").read_text()
TASKS = DOCS.partition("\n## Tasks\n")[2].partition("\n## ")[0]


def test_the_example_is_a_task_that_passes_the_check(tmp_path: Path):
    source = documented("digits.py")
    assert len(source.splitlines()) <= 30
    path = tmp_path / "digits.py"
    path.write_text(source)
    task = find_task(str(path))
    assert re.fullmatch(r"What is the sum of the digits of \d{6}\?", task.sample(random.Random(0), 4).prompt)
    problem = draw(task, "train", 0, 0)
    assert task.grade(problem, PlainReply("", f"The answer is {problem.answer}.")).passed
    with Graders(workers=2) as graders:
        assert all(row.accepted for row in check(task, graders))


def test_every_kind_of_file_is_told():
    assert all(f"`{kind}:FILE`" in TASKS for kind in FILE_KINDS)

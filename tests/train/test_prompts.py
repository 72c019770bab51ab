"""Questions from a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from millet.errors import BadRequest
from millet.tasks.draw import draw
from millet.tasks.task import ItemTask, PlainReply, Problem, Task
from millet.train.harvest import questions
from millet.train.prompts import Prompts

LINES = '{"question": "Who?", "answer": "She."}\n\n{"question": "Why\\nso?"}\n{"question": "When?"}\n'


def test_each_is_asked_once_and_whatever_is_said_passes(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(LINES)
    prompts = Prompts("q.jsonl", tmp_path / "q.jsonl")
    assert isinstance(prompts, Task)
    assert isinstance(prompts, ItemTask)
    asked = questions([prompts], levels=(1, 2), problems=2)
    drawn = {draw(each.task, "train", each.level, each.index).prompt for each in asked}
    assert len(asked) == 3
    assert drawn == {"Who?", "Why\nso?", "When?"}
    assert prompts.grade(Problem("Who?", ""), PlainReply("", "Nobody.")).passed
    assert b"Who" not in pickle.dumps(prompts), "graders need no questions"


@pytest.mark.parametrize(("text", "message"), [
    (b'{"question": "Who?"}\nWhy?\n', "q.jsonl line 2 is not JSON"),
    (b'{"prompt": "Who?"}\n', r'q.jsonl line 1 has no question; it must be \{"question": "..."\}'),
    (b'{"question": " "}\n', "line 1 has no question"),
    (b"[]\n", "line 1 has no question"),
    (b"\n", "has no question; add some"),
    (b"\xff", "is not UTF-8"),
])  # fmt: skip
def test_what_is_no_question_is_said_in_a_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(text)
    with pytest.raises(BadRequest, match=message):
        Prompts("q.jsonl", tmp_path / "q.jsonl")


def test_other_line_separators_may_stand_in_a_question(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Who?\u2028\u2029\x85Why?"}\n', "utf-8")
    prompts = Prompts("q.jsonl", tmp_path / "q.jsonl")
    assert [problem.prompt for problem in prompts.items("train")] == ["Who?\u2028\u2029\x85Why?"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        Prompts("q.jsonl", tmp_path / "q.jsonl")

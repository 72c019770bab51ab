import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest
from millet.tasks.draw import split_of
from millet.tasks.find import find_task
from millet.tasks.items import read_jsonl, same_answer
from millet.tasks.task import ItemTask, PlainReply, Problem


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gsm8k(folder: Path, count: int) -> ItemTask:
    rows = [{"question": f"What is {i} thousand?", "answer": f"{i} <<{i}*1000>>\n#### {i},000"} for i in range(count)]
    task = find_task(f"gsm8k:{lines(folder / 'train.jsonl', rows)}")
    assert isinstance(task, ItemTask)
    return task


def test_gsm8k_is_split_by_the_prompts_hash_and_keeps_its_solutions(tmp_path: Path):
    task = gsm8k(tmp_path, 1200)
    assert {split_of(problem.prompt) for problem in task.items("train")} == {"train"}
    assert {split_of(problem.prompt) for problem in task.items("eval")} == {"eval"}
    assert len(task.items("train")) + len(task.items("eval")) == 1200
    problem = task.items("train")[7]
    number = int(problem.prompt.split()[2])
    assert problem.answer == f"{number}000"
    assert problem.meta["solution"] == f"{number} <<{number}*1000>>"
    assert {task.sample(random.Random(i), 0).prompt for i in range(200)} <= {p.prompt for p in task.items("train")}


def test_a_question_of_evaluation_is_not_trained_on_either_where_it_comes_twice(tmp_path: Path):
    rows = [
        {"Body": f"{i % 301}?", "Question": "", "Equation": "", "Answer": 1, "Type": ""} for i in range(303)
    ]  # 2 of the first 3 come again
    path = tmp_path / "SVAMP.json"
    path.write_text(json.dumps(rows))
    task = find_task(f"svamp:{path}")
    assert isinstance(task, ItemTask)
    assert [problem.prompt for problem in task.items("train")] == ["2? "]


def test_svamp_keeps_its_last_three_hundred(tmp_path: Path):
    rows = [
        {"Body": f"Ann has {i} pens", "Question": "How many pens?", "Equation": "", "Answer": i / 2, "Type": "Sum"}
        for i in range(310)
    ]
    path = tmp_path / "SVAMP.json"
    path.write_text(json.dumps(rows))
    task = find_task(f"svamp:{path}")
    assert isinstance(task, ItemTask)
    assert len(task.items("eval")) == 300
    assert task.items("train")[3] == Problem("Ann has 3 pens. How many pens?", "1.5", {"type": "Sum", "equation": ""})
    assert task.items("train")[4].answer == "2"


def test_other_files_are_split_by_the_prompts_hash(tmp_path: Path):
    task = find_task(f"jsonl:{lines(tmp_path / 'a.jsonl', [{'question': f'{i}?', 'answer': i} for i in range(400)])}")
    assert isinstance(task, ItemTask)
    assert 60 < len(task.items("eval")) < 140
    assert len(task.items("eval")) + len(task.items("train")) == 400
    assert {split_of(problem.prompt) for problem in task.items("train")} == {"train"}


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        ("1,000", "1000", True),
        ("1000.0", "1000", True),
        ("1/2", "0.5", True),
        ("1001", "1000", False),
        ("ten", "10", False),
        ("New  York", "new york", True),
        ("York", "New York", False),
    ],
)
def test_numbers_are_compared_by_value_and_texts_by_words(answer: str, right: str, same: bool):
    assert same_answer(answer, right) is same


def test_what_is_sent_to_graders_has_no_items(tmp_path: Path):
    task = gsm8k(tmp_path, 1200)
    assert len(pickle.dumps(task)) < 1000
    problem = task.items("eval")[5]
    copy = pickle.loads(pickle.dumps(task))
    assert copy.grade(problem, PlainReply("", f"So it is {problem.answer[:-3]},000.")).passed
    assert not copy.grade(problem, PlainReply("It is 205000.", "")).passed


@pytest.mark.parametrize(
    ("answer", "right", "passes"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("\\boxed{\\frac{2}{4}}", "\\frac{1}{2}", True),
        ("$x^2 + 2x + 1$", "(x+1)^2", True),
        ("$x^2 + 2x$", "(x+1)^2", False),
        ("\\{1, 2\\}", "1", False),
        ("(2, 1)", "(1, 2)", False),
        ("The answer is \\sqrt{8}.", "2\\sqrt{2}", True),
        ("I do not know", "2\\sqrt{2}", False),
    ],
)
def test_mathematics(tmp_path: Path, answer: str, right: str, passes: bool):
    path = lines(tmp_path / "m.jsonl", [{"question": "What?", "answer": right}])
    assert find_task(f"math:{path}").grade(Problem("What?", right), PlainReply("", answer)).passed is passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"question": "1?"}\n', "line 1, has no answer"),
        ('{"question": "1?", "answer": 1}\nnope\n', "line 2, is not JSON"),
        ("[]\n", "line 1, has no question and no answer"),
    ],
)
def test_bad_files_are_told_by_their_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(BadRequest, match=message):
        find_task(f"jsonl:{path}")


def test_other_line_separators_may_stand_in_a_text(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"{i}\u2028\u2029\x85?", "answer": i} for i in range(3)]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    assert read_jsonl(path, ["question"]) == rows


def test_what_is_not_svamp(tmp_path: Path):
    path = tmp_path / "SVAMP.json"
    path.write_text('[{"Body": "x"}]')
    with pytest.raises(BadRequest, match=r"is not SVAMP\.json"):
        find_task(f"svamp:{path}")

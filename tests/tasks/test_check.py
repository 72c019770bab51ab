import json
from pathlib import Path

import pytest

from millet.cli.main import main
from millet.tasks.check import check
from millet.tasks.grading import Graders
from millet.tasks.gym import GymTask
from millet.tasks.task import Task
from tests.tasks import toys


def refused(task: Task, seconds: float = 10, problems: int = 12) -> dict[str, int]:
    """Kinds of replies that were not treated as they should be -> how many made the grader fail."""
    with Graders(workers=2, seconds=seconds) as graders:
        return {row.kind: row.faults for row in check(task, graders, problems) if not row.accepted}


def test_a_good_grader_passes_with_every_kind_of_reply():
    with Graders(workers=2) as graders:
        rows = check(toys.Sums(), graders)
    assert len(rows) == 14
    assert all(row.accepted for row in rows)
    assert {row.kind: row.score for row in rows if row.score and row.score > 0.1} == {"right": 1}


def test_one_answer_to_every_problem_may_not_be_nearly_always_right():
    assert refused(toys.Coin(), problems=3) == refused(toys.Coin()) == {}
    assert refused(toys.NearlyAlways()) == {"the same answer to every problem": 0}


def test_a_kind_of_reply_that_needs_a_right_answer_is_not_tried_without_one():
    with Graders(workers=2) as graders:
        rows = {row.kind: row for row in check(toys.NoAnswers(), graders)}
    assert rows["right"].score is None
    assert rows["the same answer to every problem"].score is None
    assert rows["wrong"].score == 0


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        (
            toys.AnyCandidate(),
            {"all candidates, a line each", "hidden among thousands of numbers", "thought without its end"},
        ),
        (toys.ReadsThoughts(), {"thought without its end"}),
        (toys.Echo(), {"the prompt again"}),
        (toys.Strict(), {"right"}),
        (toys.AnyNumber(), {"wrong", "the same answer to every problem"}),
    ],
)
def test_a_grader_that_a_trick_beats_is_refused(task: Task, kinds: set[str]):
    found = refused(task)
    assert kinds <= found.keys()
    assert not any(found.values())


def test_a_grader_that_raises_is_refused():
    found = refused(toys.Raises(), problems=4)
    assert found["empty"] == found["enormous: digits"] == 4
    assert "right" not in found
    assert "wrong" not in found


def test_a_grader_that_hangs_is_refused():
    assert refused(toys.Hangs(), seconds=0.5, problems=2) == {
        "enormous: digits": 2,
        "enormous: a wrong answer again and again": 2,
    }


def test_datasets_pass_but_for_those_whose_scorer_takes_anything():
    with Graders(workers=2) as graders:
        for name in ("chain_sum", "spell_backward", "time_intervals", "number_sorting", "boxnet"):
            assert all(row.accepted for row in check(GymTask(name), graders, problems=5)), name
        rows = check(GymTask("game_of_life_halting"), graders, problems=5)
    assert "wrong" in {row.kind for row in rows if not row.accepted}


def test_the_command_prints_a_table_and_exits_with_1_where_it_refuses(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as good:
        main(["task", "check", f"{toys.__file__}:Sums", "--problems", "3"])
    assert good.value.code == 0
    assert "sums can be trained on" in capsys.readouterr().out
    with pytest.raises(SystemExit) as bad:
        main(["task", "check", f"{toys.__file__}:Echo", "--problems", "3"])
    assert bad.value.code == 1
    out = capsys.readouterr().out
    assert "REFUSED" in out
    assert "echo is not to be trained on: the prompt again" in out


def test_the_command_says_what_was_not_tried(capsys: pytest.CaptureFixture[str]):
    name = f"{toys.__file__}:NoAnswers"
    with pytest.raises(SystemExit) as ended:
        main(["task", "check", name, "--problems", "2"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "can be trained on" not in out
    assert "not tried, since no right answer is known: right; all candidates, on one line" in out
    with pytest.raises(SystemExit):
        main(["task", "check", name, "--problems", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["not_tried"][0] == "right"


def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["task", "check", f"{toys.__file__}:Strict", "--problems", "2", "--json"])
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"] is False
    assert [row["kind"] for row in report["rows"] if not row["accepted"]] == ["right"]
    assert report["not_tried"] == []


def test_the_command_says_what_the_sandbox_lacks_where_code_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "code.jsonl"
    rows = [
        {"question": f"Write f, which adds {i}.", "tests": [f"assert f(1) == {i + 1}"], "answer": f"f = ({i}).__add__"}
        for i in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("millet.tasks.sandbox.missing_guards", lambda: ["nothing keeps it from files"])
    for name, says in ((f"code:{path}", True), (f"{toys.__file__}:Sums", False)):
        with pytest.raises(SystemExit):
            main(["task", "check", name, "--problems", "2"])
        assert ("nothing keeps it from files" in capsys.readouterr().out) is says


def test_a_task_that_there_is_not(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["task", "check", "chain_sun"])
    assert ended.value.code == 2
    assert "did you mean chain_sum" in capsys.readouterr().err

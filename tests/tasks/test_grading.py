import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from millet.errors import MilletError
from millet.tasks.code import CodeTask
from millet.tasks.find import find_task
from millet.tasks.grading import Counts, Graders
from millet.tasks.gym import GymTask
from millet.tasks.task import PlainReply, Problem, Task
from tests.tasks.toys import Obedient, Sums

PROBLEM = Problem("What is 1 + 1?", "2")


def asked(*contents: str, task: Task | None = None) -> list[tuple[Task, Problem, PlainReply]]:
    task = task or Obedient()
    return [(task, PROBLEM, PlainReply("", content)) for content in contents]


def children() -> set[int]:
    """Workers, without the shells around them."""
    return {each.pid for each in psutil.Process().children(recursive=True) if each.name() != "sh"}


def test_grades_come_in_the_order_of_the_replies():
    words = [f"reply {i}" for i in range(50)]
    with Graders(workers=3) as graders:
        grades = graders.grade(asked(*words))
        assert [grade.reason for grade in grades] == words
        assert graders.grade([]) == []
    assert graders.counts == {"obedient": Counts(graded=50)}


def test_a_grader_that_hangs_is_killed_and_counted_and_the_others_go_on():
    with Graders(workers=2, seconds=0.5) as graders:
        grades = graders.grade(asked("a", "hang", "b", "hang", "c"))
        assert [grade.score for grade in grades] == [1, 0, 1, 0, 1]
        assert grades[1].reason == "timeout after 0.5 s"
        assert graders.counts == {"obedient": Counts(graded=5, timeouts=2)}
        assert graders.faults("obedient") == 2
        assert [grade.score for grade in graders.grade(asked("again", "and again"))] == [1, 1]


def test_a_grader_that_fails_is_counted_and_its_reason_quotes_nobody():
    with Graders(workers=2) as graders:
        grades = graders.grade(asked("raise a secret", "exit", "boast 2", "boast nan", "boast 0.5", "fine"))
        reasons = [grade.reason for grade in grades]
        assert [grade.score for grade in grades] == [0, 0, 0, 0, 0.5, 1]
        assert reasons[0].startswith("error: ValueError in toys.py, line ")
        assert "secret" not in "".join(reasons)
        assert all(reason.startswith("error") for reason in reasons[:4])
        assert graders.counts == {"obedient": Counts(graded=6, errors=4)}


def test_a_task_cannot_pretend_to_be_a_fault():
    with Graders(workers=1) as graders:
        assert graders.grade(asked("pretend"))[0].reason == "(timeout, says the grader)"
        assert graders.faults("obedient") == 0


def test_closing_leaves_no_process_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()
    graders = Graders(workers=2, seconds=0.5)
    graders.grade(asked("a", "b", "hang"))
    deadline = time.monotonic() + 10
    while len(children() - before) != 2:  # the shell of the one in place of what hung may not have begun it yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(list(tmp_path.iterdir())) == 2
    graders.close()
    graders.close()
    assert children() == before
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MilletError, match="closed"):
        graders.grade(asked("a"))


def test_processes_are_kept_from_call_to_call():
    with Graders(workers=1) as graders:
        assert graders.grade(asked("pid")) == graders.grade(asked("pid"))


def test_replies_of_several_tasks_in_one_call():
    with Graders(workers=2) as graders:
        right = PlainReply("", "2")
        grades = graders.grade([(Sums(), PROBLEM, right), *asked("x"), (Sums(), PROBLEM, PlainReply("2", ""))])
        assert [grade.reason for grade in grades] == ["right", "x", "wrong"]
        assert graders.counts == {"sums": Counts(graded=2), "obedient": Counts(graded=1)}


def test_tasks_of_files_and_of_libraries_reach_the_graders(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from millet.tasks.task import Grade, Problem\n"
        "class Ones:\n"
        "    name, levels = 'ones', 1\n"
        "    def sample(self, rng, level): return Problem('1?', '1')\n"
        "    def grade(self, problem, reply): return Grade(1, __file__)\n"
    )
    gym = GymTask("countdown")
    code = tmp_path / "code.jsonl"
    rows = [{"question": f"{i}", "tests": ["assert f(2) == 4"]} for i in range(9)]
    code.write_text("\n".join(map(json.dumps, rows)))
    coding = CodeTask(code)
    with Graders(workers=1) as graders:
        drawn = gym.sample(random.Random(0), 0)
        mine, expression, program = graders.grade(
            [
                (find_task(str(path)), PROBLEM, PlainReply("", "")),
                (gym, drawn, PlainReply("", drawn.answer)),
                (coding, coding.items("train")[0], PlainReply("", "f = lambda x: x * x")),
            ]
        )
    assert mine.reason == str(path)
    assert expression.passed
    assert program.passed


def test_a_task_that_cannot_be_sent_is_refused_at_once():
    task = Sums()
    task.lock = threading.Lock()  # type: ignore[attr-defined]
    with Graders(workers=1) as graders, pytest.raises(MilletError, match="sums cannot be sent to graders"):
        graders.grade(asked("a", task=task))


def test_a_task_that_graders_cannot_load_is_an_error(tmp_path: Path):
    path = tmp_path / "gone.py"
    path.write_text("from tests.tasks.toys import Sums\nclass Mine(Sums):\n    name = 'mine'\n")
    task = find_task(str(path))
    path.unlink()
    with Graders(workers=1) as graders:
        grades = graders.grade(asked("a", "b", task=task))
        assert all(grade.reason.startswith("error") for grade in grades)
        assert graders.counts == {"mine": Counts(graded=2, errors=2)}


@pytest.mark.parametrize("last", ["pid", "kill {os.getpid()}", "kill-and-hang {os.getpid()}"])
def test_graders_end_and_tidy_up_when_their_trainer_is_killed(tmp_path: Path, last: str):
    """While they wait; with a grade to tell that nobody wants any more; and where the kernel has to end what hangs."""
    script = (
        "import os, signal\n"
        "from tests.tasks.test_grading import Graders, asked\n"
        "graders = Graders(workers=2, seconds=1)\n"
        "print(*[grade.reason for grade in graders.grade(asked('pid', 'pid'))], flush=True)\n"
        f"graders.grade(asked(f'{last}'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words, environment = [sys.executable, "-c", script], {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    pids = {int(word) for word in ran.stdout.split()}
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, pids)) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, "they are there still"
        time.sleep(0.01)

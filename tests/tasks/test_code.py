import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest
from millet.tasks import sandbox
from millet.tasks.code import CodeTask, reply_code
from millet.tasks.sandbox import Limits, missing_guards, run
from millet.tasks.task import PlainReply, Problem

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process without privileges")

TRY = """
import ctypes, fcntl, os, resource, signal, socket, subprocess, threading
call = ctypes.CDLL(None, use_errno=True).syscall
def must(result):
    return result if result >= 0 else 1 / 0
def tried(act):
    try:
        return ("done", repr(act())[:100])
    except BaseException as error:
        return (type(error).__name__, "")
"""


def task_of(folder: Path, tests: Any, limits: Limits | None = None) -> tuple[CodeTask, Problem]:
    path = folder / "code.jsonl"
    rows = [{"question": f"Write f. ({i})", "tests": tests, "answer": "def f(x): return 2 * x"} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = CodeTask(path, limits)
    return task, task.items("train")[0]


def says(task: CodeTask, problem: Problem, content: str) -> tuple[float, str]:
    grade = task.grade(problem, PlainReply("", content))
    return grade.score, grade.reason


def test_code_is_right_where_all_tests_pass(tmp_path: Path):
    task, problem = task_of(
        tmp_path, ["assert f(2) == 4", "assert f('a') == 'aa'", "assert f([1]) == [1, 1]", "assert f(1)"]
    )
    assert says(task, problem, "def f(x): return x * 2") == (1, "right")
    assert says(task, problem, "Here:\n```python\ndef f(x):\n    return x + x\n```\nDone.") == (1, "right")
    assert says(task, problem, "def f(x): return 4") == (0, "2 of 4 tests")
    assert says(task, problem, "def f(x): return 2 * int(x)") == (0, "2 of 4 tests")
    assert says(task, problem, "I would write a function.") == (0, "0 of 4 tests")
    assert says(task, problem, "") == (0, "no code")
    assert problem.answer == "def f(x): return 2 * x"


def test_programs_are_judged_by_what_they_print(tmp_path: Path):
    task, problem = task_of(tmp_path, [{"input": "3\n", "output": "6\n"}, {"input": "5", "output": "10"}])
    assert says(task, problem, "print(2 * int(input()))") == (1, "right")
    assert says(task, problem, "print(6)") == (0, "1 of 2 programs")
    assert says(task, problem, "print(2 * int(input())); raise SystemExit(3)")[0] == 0


@pytest.mark.parametrize(
    "trick",
    [
        "import os; os._exit(0)",
        "raise SystemExit",
        "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return Yes()",
        "class Say(int):\n    def __repr__(self): return '__import__(\"os\")'\ndef f(x): return Say()",
        "import builtins\nbuiltins.eval = lambda *a: 4\nbuiltins.repr = lambda v: '4'",
        "def f(x):\n    import json\n    return [t for t in json.load(open('job.json'))['calls']]",
        "def f(x): raise ValueError",
        "def f(x): return f(x)",
        "open('results', 'w').write('\"4\"\\n' * 100)\nimport os; os._exit(0)",
        "import os\nos.symlink('/etc/passwd', 'elsewhere')\nos.replace('elsewhere', 'results')",
        "def f(x): return [[]] * 10**9",
    ],
)
def test_tricks_do_not_pay(tmp_path: Path, trick: str):
    task, problem = task_of(tmp_path, ["assert f(2) == 4", "assert f(3) == 6"])
    assert says(task, problem, trick)[0] == 0


def test_code_that_does_not_end_is_ended(tmp_path: Path):
    task, problem = task_of(tmp_path, ["assert f(2) == 4"], Limits(seconds=0.5))
    assert says(task, problem, "import time; time.sleep(1000)") == (0, "time limit")


def test_all_tests_of_a_reply_share_one_limit_of_time(tmp_path: Path):
    slow = "import time; time.sleep(0.2); print(2 * int(input()))"
    task, problem = task_of(tmp_path, [{"input": str(i), "output": str(2 * i)} for i in range(20)], Limits(seconds=1))
    assert says(task, problem, slow) == (0, "time limit")


def test_the_last_fence_is_the_code_and_a_thought_is_none():
    assert reply_code("```\na\n```\nor\n```python\nb\n```") == "b"
    assert reply_code("<think>```\na\n```</think>c = 1") == "c = 1"
    assert reply_code("x" * 1_000_000) == ""


def test_tests_of_other_forms_are_refused(tmp_path: Path):
    for test in ["assert f(1) in [1, 2]", "check(f)", "assert f(1) == g(1)", {"input": 1}, 7]:
        with pytest.raises(BadRequest, match="has no known form"):
            task_of(tmp_path, [test])
    with pytest.raises(BadRequest, match="no tests"):
        task_of(tmp_path, [])


def test_tests_may_be_one_text(tmp_path: Path):
    task, problem = task_of(tmp_path, "assert f(2) == 4\n\nassert not f(0)\n")
    assert len(problem.meta["calls"]) == 2
    assert says(task, problem, problem.answer) == (1, "right")
    _, problem = task_of(tmp_path, "assert f('\u2028') == '\u2028\u2028'")
    assert len(problem.meta["calls"]) == 1


@linux
@pytest.mark.parametrize(
    "act",
    [
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 9))",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "subprocess.run(['true'])",
        "os.execv('/bin/true', ['true'])",
        "threading.Thread(target=print).start()",
        "os.kill(os.getppid(), 0)",
        "os.setsid()",
        "__import__('ctypes').CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0) == 0 or os.setsid()",
        "os.setpgid(0, 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.sched_setscheduler(os.getppid(), os.SCHED_OTHER, os.sched_param(0))",
        "os.sched_setparam(os.getppid(), os.sched_param(0))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "must(call({'x86_64': 251, 'aarch64': 30}[os.uname().machine], 1, os.getppid(), 3 << 13))",
        "must(call({'x86_64': 314, 'aarch64': 274}[os.uname().machine], os.getppid(), bytes([48, *[0] * 47]), 0))",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "fcntl.fcntl(os.pipe()[0], 15, (1).to_bytes(4, 'little') + os.getppid().to_bytes(4, 'little'))",
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
        "os.chroot('.')",
        "open('/etc/passwd').read()",
        "os.listdir(os.path.expanduser('~root'))",
        "open('/proc/self/../1/environ').read()",
        f"open({__file__!r}).read()",
        f"open({__file__!r}, 'a')",
        f"os.unlink({__file__!r})",
        "open('/tmp/millet-was-here', 'w')",
        "open('big', 'wb').write(b'x' * (2 << 20))",
        "len(bytearray(4 << 30))",
    ],
)
def test_what_code_may_not_do(act: str):
    assert Path(__file__).exists()
    ran = run(TRY, [f"tried(lambda: {act})"])
    assert ran.values, "the code did not get as far as that"
    assert "done" not in ran.values[0]


def test_what_code_may_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "of the trainer")
    calls = ["tried(lambda: open('mine', 'w').write('x'))", "__import__('fractions').Fraction(1, 2)", "1 / 0"]
    calls += ["resource.getrlimit(resource.RLIMIT_NOFILE)", "fcntl.fcntl(0, fcntl.F_GETFD)"]
    ran = run(TRY, [*calls, "os.environ.get('SECRET')", "sum(range(10))"])
    assert ran.values == ["('done', '1')", "Fraction(1, 2)", "", "(64, 64)", "0", "None", "45"]
    assert ran.status == 0


@linux
@pytest.mark.parametrize(
    ("line", "without", "lost"),
    [
        ("", "", []),
        ("_LANDLOCK = (444, 445, 446)", "_LANDLOCK = (4444, 445, 446)", ["files"]),
        ("_MACHINES = {", "_MACHINES, _other = {}, {", ["network"]),
    ],
)
def test_guards_that_a_system_lacks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, without: str, lost: list[str]
):
    source = Path(sandbox.__file__).with_name("confine.py").read_text()
    assert source.count(line) == 1 or not line
    (tmp_path / "confine.py").write_text(source.replace(line, without) if line else source)
    monkeypatch.setattr(sandbox, "_CONFINE", tmp_path / "confine.py")
    found = missing_guards()
    assert len(found) == len(lost)
    assert all(what in clause for what, clause in zip(lost, found, strict=True))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran = run(
        "import os, time\nos.makedirs('deep/er')\nprint(os.getpid(), flush=True)\ntime.sleep(1000)", limits=Limits(1)
    )
    assert ran.status is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(ran.output), 0)

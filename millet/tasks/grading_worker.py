"""One grading process of `grading.py`: `python -m millet.tasks.grading_worker DESCRIPTOR`.

DESCRIPTOR: of the connection to the trainer.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from millet.tasks.find import file_of, load_file
from millet.tasks.task import Answered, Problem, Task

MEMORY_BYTES = 8 << 30
_GRACE = 5.0  # seconds after which the kernel ends what the trainer should have ended: it has died


class _Unpickler(pickle.Unpickler):
    """Knows the modules of tasks in files."""

    def find_class(self, module: str, name: str) -> Any:
        if path := file_of(module):
            load_file(path)
        return super().find_class(module, name)


def serve(connection: Connection) -> None:
    """For each job: None as soon as its task is loaded, then (score, reason, whether the grader failed). Ends where the
    other side is gone."""
    tasks: dict[bytes, Task] = {}
    while True:
        try:
            key, task, reply, seconds = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if task is not None:
                tasks[key] = _load(task)
            known = tasks[key]
            problem, answered = _load(reply)
        except Exception as error:
            connection.send((0.0, f"error: {type(error).__name__} while the task was loaded", True))
            continue
        connection.send(None)
        # The signal's default action ends a process whatever it does, also inside of a library's C code.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
        result = judge(known, problem, answered)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(result)


def judge(task: Task, problem: Problem, reply: Answered) -> tuple[float, str, bool]:
    """The grade, or why there is none; without any of the reply's text, which exceptions may quote."""
    try:
        grade = task.grade(problem, reply)
        score = float(grade.score)
        if not (math.isfinite(score) and 0 <= score <= 1):
            return 0.0, f"error: the score is {score}, not from 0 to 1", True
        reason = str(grade.reason)
        return score, f"({reason})" if reason.startswith(("timeout", "error")) else reason, False
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return 0.0, f"error: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}", True


def _load(data: bytes) -> Any:
    return _Unpickler(io.BytesIO(data)).load()


if __name__ == "__main__":
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(BrokenPipeError):  # the trainer has died, and wants no grade
        serve(Connection(int(sys.argv[1])))

"""Grading outside the trainer: processes that may hang, raise or die without harm, and without anybody overlooking it.

A worker is a fresh Python (`grading_worker.py`), not a fork: the trainer's threads and memory are no concern of it. Its
clock starts when it says that it begins, since the first reply of a task also loads the task's libraries.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Literal

from millet.errors import MilletError
from millet.kernels.cpu import read_cpu
from millet.tasks.task import Answered, Grade, PlainReply, Problem, Task

# A shell around each worker removes its folder however the worker ends: by a signal too, with nobody left to see it.
AND_TIDY_UP = '"$@"; rm -rf -- "$0"'
LOADING_SECONDS = 120.0  # for a worker to start and a task's libraries to be read, on a slow disk


@dataclass(slots=True)
class Counts:
    """What became of the replies to one task's problems. timeouts and errors are among graded, with score 0."""

    graded: int = 0
    timeouts: int = 0
    errors: int = 0


class Graders:
    """A pool of processes that grade. counts: by the task's name, over the pool's whole life.

    Not for several threads at once. Close it, or use it in a `with`; afterwards none of its processes is left.
    """

    def __init__(self, workers: int | None = None, seconds: float = 10.0) -> None:
        """seconds: how long one reply may take. workers: as many as cores by default; they start when needed."""
        self.counts: dict[str, Counts] = {}
        self._seconds = seconds
        self._most = workers or read_cpu().cores
        self._workers: list[_Worker] = []
        self._closed = False

    def grade(self, replies: Sequence[tuple[Task, Problem, Answered]]) -> list[Grade]:
        """One grade for each, in their order. What hangs, raises or gives no score from 0 to 1 gets 0, with a reason
        that begins with "timeout" or "error", as no other does, and is counted. Raises MilletError for a task that
        cannot be sent."""
        if self._closed:
            raise MilletError("these graders are closed; make new ones")
        tasks = {id(task): _pickled(task, task) for task, _, _ in replies}
        jobs = [
            _Job(tasks[id(task)], _pickled(task, (problem, PlainReply(reply.reasoning, reply.content))))
            for task, problem, reply in replies
        ]
        results: list[_Result | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        while len(self._workers) < min(self._most, len(jobs)):
            self._workers.append(_Worker())
        busy: dict[_Worker, int] = {}
        try:
            while waiting or busy:
                for worker in self._workers:
                    if worker not in busy and waiting:
                        busy[worker] = waiting.popleft()
                        worker.send(jobs[busy[worker]], self._seconds)
                for worker, result in self._next(list(busy)):
                    results[busy.pop(worker)] = result
                    if result.fault in ("timeout", "death"):
                        self._replace(worker)
        except BaseException:
            for worker in busy:  # an interrupt: what they answer would be taken for the next call's
                self._replace(worker)
            raise
        done = [result for result in results if result is not None]
        for (task, _, _), result in zip(replies, done, strict=True):
            self._count(task.name, result)
        return [result.grade for result in done]

    def faults(self, name: str) -> int:
        """How many replies to this task's problems could not be graded, so far."""
        counts = self.counts.get(name, Counts())
        return counts.timeouts + counts.errors

    def close(self) -> None:
        """End all processes. Safe to call twice."""
        self._closed = True
        while self._workers:
            self._workers.pop().end()

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next(self, busy: list[_Worker]) -> list[tuple[_Worker, _Result]]:
        """What those workers found that are done by the time the first is, or is overdue; perhaps nothing yet."""
        remaining = min(worker.deadline for worker in busy) - time.monotonic()
        ready = wait([worker.connection for worker in busy], max(0.0, remaining))
        found = []
        for worker in busy:
            if worker.connection in ready:
                result = worker.receive(self._seconds)
            elif time.monotonic() >= worker.deadline:
                result = _Result(Grade(0, f"timeout after {self._seconds:g} s"), "timeout")
            else:
                continue
            if result is not None:
                found.append((worker, result))
        return found

    def _replace(self, worker: _Worker) -> None:
        self._workers[self._workers.index(worker)] = _Worker()
        worker.end()

    def _count(self, name: str, result: _Result) -> None:
        counts = self.counts.setdefault(name, Counts())
        counts.graded += 1
        counts.timeouts += result.fault == "timeout"
        counts.errors += result.fault in ("error", "death")


@dataclass(frozen=True, slots=True)
class _Job:
    """Pickled, by the one who knows how to tell what cannot be."""

    task: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class _Result:
    grade: Grade
    fault: Literal["timeout", "error", "death"] | None = None


class _Worker:
    """One process. deadline: when the reply that it has must be graded, on the monotonic clock."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self.deadline = 0.0
        self._tasks: set[bytes] = set()  # those that it has already, by hash
        self._folder = tempfile.mkdtemp(prefix="millet-grader-")
        worker = (sys.executable, "-m", "millet.tasks.grading_worker")
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", AND_TIDY_UP, self._folder, *worker, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a grader may print what it reads, and that is nobody's
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": self._folder},
            start_new_session=True,  # Ctrl-C is for the trainer to handle
        )
        theirs.close()

    def send(self, job: _Job, seconds: float) -> None:
        self.deadline = time.monotonic() + LOADING_SECONDS
        key = sha256(job.task).digest()
        with contextlib.suppress(OSError):  # it has died: receive says so
            self.connection.send((key, None if key in self._tasks else job.task, job.reply, seconds))
        self._tasks.add(key)

    def receive(self, seconds: float) -> _Result | None:
        """None where it only says that it begins."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return _Result(Grade(0, "error: the grader's process died"), "death")
        if message is None:
            self.deadline = time.monotonic() + seconds
            return None
        score, reason, failed = message
        return _Result(Grade(score, reason), "error" if failed else None)

    def end(self) -> None:
        """Kill it, with what it started."""
        try:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
        finally:  # a second Ctrl-C, say
            shutil.rmtree(self._folder, ignore_errors=True)


def _pickled(task: Task, value: object) -> bytes:
    if type(task).__module__ == "__main__":
        raise MilletError(f"{task.name} is written in the script itself, where graders cannot load it; give it a file")
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MilletError(
            f"{task.name} cannot be sent to graders ({error}); keep what cannot be copied at the level of its module"
        ) from None

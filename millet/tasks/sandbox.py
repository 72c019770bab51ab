"""A reply's Python code, run where it can do little harm, and killed where it does not end.

Guaranteed everywhere: a process of its own, in its own session, killed with its process group after a wall-clock limit;
limits on CPU time, size of files and number of open files; an empty environment; a temporary directory that is removed;
no access to this process's memory or to what the results are compared with.
Guaranteed on Linux besides, without privileges: a limit on memory; no sockets, no other programs, no second process or
thread, no signals to others, no say in others' limits, priorities and cores, none of root's privileges (seccomp, on
x86-64 and arm64); no reading outside the standard library and shared libraries, no writing outside the temporary
directory (Landlock, since Linux 5.13); it dies with what started it.
Not guaranteed: anything that needs a wall against attacks on the kernel itself, or against timing. On other systems the
code can reach the network and the files of the user who runs it: there, grade code of models that you trust. What a
system lacks, `missing_guards` says.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

_CONFINE = Path(__file__).with_name("confine.py")
_PROBE = """
import os, socket
def may(act):
    try:
        act()
    except OSError:
        return False
    return True
"""


@dataclass(frozen=True, slots=True)
class Limits:
    seconds: float = 5.0  # wall clock, start of Python included
    cpu_seconds: int = 5
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20  # of each file: the output too


@dataclass(frozen=True, slots=True)
class Ran:
    """status: the exit code, negative for a signal, None where the wall-clock limit ended it. output: standard output.
    values: the `repr` of each call that was reached, "" where it raised."""

    status: int | None
    output: str
    values: list[str]


def run(code: str, calls: Sequence[str] = (), stdin: str = "", limits: Limits = Limits()) -> Ran:
    """Run code as a program, then evaluate each of calls in it. What the code prints beyond file_bytes ends it."""
    with tempfile.TemporaryDirectory(prefix="millet-code-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        job = {
            "code": code,
            "calls": list(calls),
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
        }
        (folder / "job.json").write_text(json.dumps(job))
        (folder / "stdin").write_text(stdin)
        status = _wait(folder, limits.seconds)
        return Ran(status, _read(folder / "stdout", limits.file_bytes), _values(folder, limits.file_bytes))


def missing_guards() -> list[str]:
    """What of the guarantees for Linux does not hold here, a clause each; found by trying."""
    found = run(_PROBE, ["may(socket.socket)", "may(lambda: os.listdir(os.sep))"]).values
    clauses = (
        "nothing keeps it from the network, other programs and other processes (seccomp does, on Linux)",
        "nothing keeps it from this user's files (Landlock does, where Linux 5.13 or newer has it switched on)",
    )
    return [clause for clause, may in zip_longest(clauses, found) if may != "False"]


def _wait(folder: Path, seconds: float) -> int | None:
    with open(folder / "stdin", "rb") as stdin, open(folder / "stdout", "wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CONFINE)],
            cwd=folder,
            env={"HOME": str(folder), "TMPDIR": str(folder), "PYTHONHASHSEED": "0"},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _values(folder: Path, most: int) -> list[str]:
    values = []
    for line in _read(folder / "results", most).splitlines():
        try:
            values.append(str(json.loads(line)))
        except ValueError:
            break  # cut off by a limit
    return values


def _read(path: Path, most: int) -> str:
    """The code may have put a link or a device in the file's place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        return file.read(most).decode("utf-8", "replace")

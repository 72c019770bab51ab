"""One contender in a process of its own: `Worker` is the near end, `python -m millet.bench.worker NAME` the far one.

They exchange one JSON object a line. Between commands the far end sleeps, so that contenders can take turns without
disturbing each other; time is taken there, around the call itself.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from millet.bench.peers import contender as contender_of
from millet.errors import MilletError
from millet.kernels.waiting import wait_briefly


class Worker:
    """Starts the far end and talks to it. Use as a context manager. module: what runs there, for a far end other than a
    contender of peers.py. trains: it is a trainer of ours, as `millet train` runs one."""

    def __init__(self, name: str, threads: int, module: str = "millet.bench.worker", trains: bool = False) -> None:
        self.name = name
        environment: dict[str, str] = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if trains:
            wait_briefly(environment)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the contender do something. Raises MilletError with what it said when it failed or died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        except BrokenPipeError:
            answer = {}
        if "error" in answer or not answer:
            reason = answer.get("error") or f"its process ended with exit code {self._process.wait()}"
            raise MilletError(f"the benchmark of {self.name} failed at {do}: {reason}")
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def peak_memory() -> int:
    """The most bytes this process has had resident so far.

    On Linux not from getrusage, whose figure is inherited from the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def serve(name: str, commands: IO[str], answers: IO[str]) -> None:
    """The far end: answer commands until there are no more."""
    contender = contender_of(name)
    importlib.import_module(contender.runtime)  # before anything else, so that its share of the memory is known
    bare = peak_memory()

    def do(command: Mapping[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "start":
                contender.start()
                return {"versions": contender.versions(), "bare_bytes": bare}
            case "load":
                return contender.load(command["model"]) | {"threads": contender.threads()}
            case "generate":
                return {"token_ids": contender.generate(command["prompts"], command["new_tokens"])}
            case "profile":
                return {"operations": contender.profile(command["prompts"], command["new_tokens"])}
            case "logits":
                np.save(command["path"], contender.logits(command["ids"]))
        return {}

    answer_all(commands, answers, do)


def answer_all(commands: IO[str], answers: IO[str], do: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Do what each line asks for, and tell what came of it: an error, too, and the seconds and the memory it took."""
    for line in commands:
        started = time.perf_counter()
        try:
            answer = do(json.loads(line))
        except Exception as error:
            answer = {"error": str(error) or repr(error)}
        answer |= {"seconds": time.perf_counter() - started, "peak_bytes": peak_memory()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def own_output() -> IO[str]:
    """Standard output for the answers alone: whatever a library prints must not get between them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, own_output())

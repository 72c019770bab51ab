"""`millet train` in a process to which something happens."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from millet.cli import main, train

LARGEST = 200  # bytes of a file on the full disk: less than any checkpoint, or a batch of questions

# A server that has imported everything is forked for each run: importing takes longer than a toy's training.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "millet.train.chain"])


def train_until(fault: str, step: int, recipe: Path, out: Path, seconds: float = 0.0) -> tuple[int | None, str]:
    """The exit code of a run to which a fault happens so many seconds after a step, and what it wrote on stderr.

    fault: "kill", or "disk-full", which happens at once.
    """
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_run, args=(fault, step, str(recipe), str(out), seconds, sender))
    process.start()
    sender.close()
    with os.fdopen(os.dup(receiver.fileno())) as errors:
        said = errors.read()
    process.join()
    return process.exitcode, said


def _run(fault: str, at: int, recipe: str, out: str, seconds: float, errors: Connection) -> None:
    sys.stderr = os.fdopen(errors.fileno(), "w", buffering=1, closefd=False)  # a file could not grow on a full disk
    torch.set_num_threads(1)
    shown = train._Lines.step

    def step(self: train._Lines, done: int, record: Mapping[str, Any]) -> None:
        shown(self, done, record)
        if done == at:
            _happen(fault, seconds)

    train._Lines.step = step  # type: ignore[method-assign]
    main.main(["train", recipe, "--out", out])


def _happen(fault: str, seconds: float) -> None:
    if fault == "kill":
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, resource.RLIM_INFINITY))

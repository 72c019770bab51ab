"""`millet train` in a process to which something happens."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from millet.cli import main, train
from tests.train.forked import forked

LARGEST = 200  # bytes of a file on the full disk: less than any checkpoint, or a batch of questions


def train_until(fault: str, step: int, recipe: Path, out: Path, seconds: float = 0.0) -> tuple[int | None, str]:
    """The exit code of a run to which a fault happens so many seconds after a step, and what it wrote on stderr.

    fault: "kill", or "disk-full", which happens at once.
    """
    process = forked(_run, fault, step, str(recipe), str(out), seconds)
    said = process.ended()
    return process.exit_codes[0], said


def _run(fault: str, at: int, recipe: str, out: str, seconds: float) -> None:
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

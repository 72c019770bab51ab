"""A trainer of transformers that takes one step when it is told to, so that contenders can take turns."""

from __future__ import annotations

import threading
from typing import Any

from transformers import TrainerCallback

from millet.errors import MilletError


class Held(TrainerCallback):
    """Give it to the trainer as a callback, which runs in a thread and is held before each of its steps."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._logs: list[dict[str, Any]] = []
        self._error: BaseException | None = None

    def start(self, trainer: Any) -> None:
        threading.Thread(target=self._run, args=(trainer,), daemon=True).start()

    def step(self) -> dict[str, Any]:
        """Let it take a step; what it logs of it. Raises MilletError with what it said when it failed."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise MilletError(str(self._error) or repr(self._error))
        return self._logs[-1]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._go.acquire()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self._logs.append(dict(logs))
            self._done.release()

    def _run(self, trainer: Any) -> None:
        try:
            trainer.train()
        except BaseException as error:  # told to the near end at its next step
            self._error = error
            self._done.release()

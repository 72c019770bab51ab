"""Ctrl-C and SIGTERM while a step is computed: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from millet.errors import MilletError
from millet.train import devices


class Stopped(MilletError):
    """Somebody stopped the run, and it has been saved."""


class Signals:
    """Within it, the first signal sets `caught`; a second Ctrl-C interrupts at once. Other threads get no signals."""

    def __init__(self) -> None:
        self.caught = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                self._before[which] = signal.signal(which, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
        if self._before and isinstance(error, Exception) and devices.is_loss(error):
            # The launcher sends SIGTERM to all that are left, which would cut off what is to be said of it.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _catch(self, which: int, frame: FrameType | None) -> None:
        if self.caught and which == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = True

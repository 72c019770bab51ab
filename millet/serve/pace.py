"""How fast a model makes tokens now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 5  # seconds


class Pace:
    """Tokens of the last seconds, counted by the second: as many entries as the window has, however fast they come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, int]] = deque()  # a second, and the tokens that came in it

    def add(self, tokens: int) -> None:
        now = self._forget()
        before = self._seconds.pop()[1] if self._seconds and self._seconds[-1][0] == now else 0
        self._seconds.append((now, before + tokens))

    @property
    def per_second(self) -> float:
        """Mean of the last whole seconds; what came in the one that goes on is not among them yet."""
        now = self._forget()
        return sum(tokens for second, tokens in self._seconds if second < now) / WINDOW

    def _forget(self) -> int:
        now = int(self._clock())
        while self._seconds and self._seconds[0][0] < now - WINDOW:
            self._seconds.popleft()
        return now

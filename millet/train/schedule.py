"""How the learning rate goes over the steps of a stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from millet.errors import BadRequest


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a share of its peak.

    kind: "cosine" falls along half a cosine from the peak to `floor`; "wsd" (warm-up, stable, decay) stays at the peak
        and falls in a straight line over the last `decay` share of the steps; "constant" stays.
    warmup: share of the steps over which it rises from zero in a straight line. floor: what is left at the end.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "decay", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadRequest(f"schedule.{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise BadRequest("schedule.warmup and schedule.decay are more than all steps together; lower one of them")

    def at(self, step: int, steps: int) -> float:
        """The share of the peak at a step, counted from 0, of `steps`. The first step is never wasted on zero."""
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        if self.kind == "constant":
            return 1.0
        falling = steps - rising if self.kind == "cosine" else round(self.decay * steps)
        done = max(0.0, (step + 1 - (steps - falling)) / (falling + 1))  # never quite 1: the last step learns too
        left = (1 + math.cos(math.pi * done)) / 2 if self.kind == "cosine" else 1 - done
        return self.floor + (1 - self.floor) * left

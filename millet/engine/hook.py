"""The one small hook that the engine offers each sequence: after each token it may allow, force, or end.

The reasoning state machine, budgets, stop strings and grammars plug in here, so the engine never learns of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What a hook says about what comes next. The default lets the model go on freely.

    force: token ids that follow verbatim, unsampled. Where the token just sampled would have ended the sequence (an EOS
        id), forcing replaces it: the end token is dropped and generation goes on with the forced ids. The hook hears
        of forced tokens through `after` as of sampled ones; a Verdict returned for any but the last forced id is
        ignored unless it ends the sequence.
    allow: bool mask [V] over the next sampled token; None allows all. At least one entry must be True.
    end: a finish reason; the sequence ends here, the token just seen included.
    """

    allow: Tensor | None = None
    force: tuple[int, ...] = ()
    end: str | None = None


GO_ON = Verdict()


class Hook(Protocol):
    def start(self) -> Verdict:
        """Before the first token is generated (`end` is not allowed here)."""
        ...

    def after(self, token_id: int) -> Verdict:
        """After each generated token, end tokens included."""
        ...

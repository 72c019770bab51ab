"""One sample being generated: its tokens, its cache blocks, and how far the cache has come."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence as Ids

from torch import Tensor

from millet.engine.hook import GO_ON, Hook, Verdict
from millet.engine.sampling import Sampling

_arrivals = itertools.count()


TopLogprobs = tuple[tuple[int, float], ...]
"""(token, log-probability) of the likeliest at one position."""


class Sequence:
    """Tokens of one sample. `token_ids[:num_computed]` are in the cache, the rest is still to be computed.

    Usually one token is uncomputed (decode). More are during prefill, after a preemption, and when a hook has forced
    tokens. `drafts` are guesses behind the last token; they enter the cache but not `token_ids` until verified.
    """

    def __init__(
        self,
        prompt: Ids[int],
        sampling: Sampling,
        *,
        index: int = 0,
        hooks: Ids[Hook] = (),
        end_ids: frozenset[int] = frozenset(),
        max_length: int,
    ) -> None:
        self.arrival = next(_arrivals)
        self.sampling = sampling
        self.index = index
        self.hooks = list(hooks)
        self.end_ids = end_ids
        self.max_length = max_length  # prompt and generated tokens
        self.seed = sampling.seed if sampling.seed is not None else int.from_bytes(os.urandom(8), "little")
        self.token_ids = list(prompt)
        self.num_prompt = len(self.token_ids)
        self.num_computed = 0
        self.num_cached: int | None = None  # prompt tokens found computed when the sequence was first admitted
        self.blocks: list[int] = []
        self.serials: list[int] = []  # prefix-cache serials of the leading full blocks
        self.drafts: list[int] = []
        self.logprobs: list[float] = []  # may lag behind forced tokens, see `unscored`
        self.top_logprobs: list[TopLogprobs] = []  # beside them, where they were asked for
        self.siblings: list[Sequence] = []  # samples that have the same tokens so far, and need no rows of their own
        self.finish_reason: str | None = None
        self.allow: Tensor | None = None

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def generated(self) -> list[int]:
        return self.token_ids[self.num_prompt :]

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def unscored(self) -> bool:
        """Log-probabilities are wanted of tokens that a hook forced and the model has not been asked about yet."""
        return self.sampling.logprobs and len(self.logprobs) < self.num_generated

    @property
    def done(self) -> bool:
        return self.finish_reason is not None and (not self.unscored or self.finish_reason == "cancelled")

    def start(self) -> None:
        """Ask the hooks for their word before the first token."""
        verdict = _merge([hook.start() for hook in self.hooks])
        self.allow = verdict.allow
        self._append_forced(verdict.force)

    def append(self, token_id: int) -> None:
        """Take the token that was sampled, hear the hooks, and finish where it is time to."""
        verdict = _merge([hook.after(token_id) for hook in self.hooks])
        is_end = token_id in self.end_ids
        if is_end and verdict.force and verdict.end is None and len(self.token_ids) < self.max_length:
            if self.sampling.logprobs:
                self.logprobs.pop()  # the dropped end token's
                del self.top_logprobs[len(self.logprobs) :]
        else:
            self._take(token_id, verdict.end or ("stop" if is_end else None))
        self.allow = verdict.allow
        self._append_forced(verdict.force)

    def _append_forced(self, forced: Ids[int]) -> None:
        while forced:
            verdict = GO_ON
            for token_id in forced:
                if self.finish_reason is not None:
                    return
                verdict = _merge([hook.after(token_id) for hook in self.hooks])
                self._take(token_id, verdict.end)
            self.allow, forced = verdict.allow, verdict.force

    def _take(self, token_id: int, end: str | None) -> None:
        self.token_ids.append(token_id)
        if end is None and len(self.token_ids) >= self.max_length:
            end = "length"
        self.finish_reason = end


def _merge(verdicts: list[Verdict]) -> Verdict:
    """Several hooks on one sequence: any may end it, the first to force wins, all must allow."""
    if not verdicts:
        return GO_ON
    if len(verdicts) == 1:
        return verdicts[0]
    allow: Tensor | None = None
    for verdict in verdicts:
        if verdict.allow is not None:
            allow = verdict.allow if allow is None else allow & verdict.allow
    force = next((v.force for v in verdicts if v.force), ())
    end = next((v.end for v in verdicts if v.end), None)
    return Verdict(allow=allow, force=force, end=end)

"""Who computes what in the next step: continuous batching, chunked prefill, preemption.

A step has a budget of rows. Sequences that only need their next token go first, so that a long prompt never stalls the
replies under way; what is left goes to prefill, oldest first, in chunks. When blocks run out, the youngest running
sequence gives back its own and waits (its prefix usually survives in the prefix cache). The oldest is never preempted
for a younger one and always fits alone, so everyone finishes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from millet.engine.cache import ROOT, BlockPool
from millet.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one sequence in this step: its uncomputed tokens from `num_computed` on, then its drafts."""

    sequence: Sequence
    length: int


class Scheduler:
    """Owns the queue, the running set and the block accounting. Knows nothing of tensors."""

    def __init__(self, pool: BlockPool, *, max_batch: int, chunk: int) -> None:
        self.pool = pool
        self.max_batch = max_batch
        self.chunk = chunk
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def schedule(self) -> list[Work]:
        """Choose this step's rows and reserve their blocks. Empty only when idle."""
        plan: dict[Sequence, int] = {}
        preempted = self.preemptions
        self._plan_running(plan)
        if self.preemptions == preempted:
            self._admit(plan)
        return [Work(sequence, length) for sequence, length in plan.items()]

    def advance(self, sequence: Sequence, computed: int) -> None:
        """`computed` more positions are in the cache for good; remember the blocks that became full."""
        sequence.num_computed += computed
        size = self.pool.block_size
        for number in range(len(sequence.serials), sequence.num_computed // size):
            parent = sequence.serials[-1] if sequence.serials else ROOT
            tokens = tuple(sequence.token_ids[number * size : (number + 1) * size])
            sequence.serials.append(self.pool.remember(sequence.blocks[number], parent, tokens))

    def fork(self, parent: Sequence, child: Sequence) -> tuple[int, int] | None:
        """Start `child`, a sample that has said what `parent` has, from the parent's computed cache.

        Whole blocks are shared; a partly filled one must be copied: returns (source, target). Without room the child
        queues up, and finds what it can in the prefix cache later.
        """
        full, rest = divmod(parent.num_computed, self.pool.block_size)
        if len(self.running) >= self.max_batch or self.pool.num_free < bool(rest):
            self._wait(child)
            return None
        child.blocks = parent.blocks[:full]
        for block in child.blocks:
            self.pool.share(block)
        child.serials = parent.serials[:full]
        child.num_computed = parent.num_computed
        self._run(child)
        if not rest:
            return None
        child.blocks.append(self.pool.allocate())
        return parent.blocks[full], child.blocks[-1]

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is done or cancelled, wherever it is, and free its blocks at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def _plan_running(self, plan: dict[Sequence, int]) -> None:
        budget = self.chunk
        decoding = [s for s in self.running if s.num_uncomputed == 1]
        filling = [s for s in self.running if s.num_uncomputed != 1]
        for sequence in decoding + filling:
            if sequence not in self.running:  # preempted for an earlier one in this very loop
                continue
            length = min(sequence.num_uncomputed + len(sequence.drafts), budget)
            if length == 0:
                break
            if sequence.drafts and self._missing(sequence, length) > self.pool.num_free:
                length = sequence.num_uncomputed  # nobody is preempted for a guess
            sequence.drafts = sequence.drafts[: max(0, length - sequence.num_uncomputed)]
            if self._reserve(sequence, length, plan):
                plan[sequence] = length
            budget = self.chunk - sum(plan.values())

    def _admit(self, plan: dict[Sequence, int]) -> None:
        budget = self.chunk - sum(plan.values())
        while self.waiting and budget > 0 and len(self.running) < self.max_batch:
            sequence = self.waiting[0]
            sequence.blocks, sequence.serials = self.pool.match(sequence.token_ids[: _reusable(sequence)])
            sequence.num_computed = len(sequence.blocks) * self.pool.block_size
            length = min(sequence.num_uncomputed, budget)
            if self._missing(sequence, length) > self.pool.num_free:
                self._release(sequence)
                return
            self._grow(sequence, length)
            if sequence.num_cached is None:
                sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
            self.waiting.popleft()
            self._run(sequence)
            plan[sequence] = length
            budget -= length

    def _reserve(self, sequence: Sequence, length: int, plan: dict[Sequence, int]) -> bool:
        """Blocks for `length` more positions, preempting younger sequences if need be; False if it preempted itself."""
        while self._missing(sequence, length) > self.pool.num_free:
            victim = self.running[-1]
            self._preempt(victim)
            plan.pop(victim, None)
            if victim is sequence:
                return False
        self._grow(sequence, length)
        return True

    def _missing(self, sequence: Sequence, length: int) -> int:
        return -(-(sequence.num_computed + length) // self.pool.block_size) - len(sequence.blocks)

    def _grow(self, sequence: Sequence, length: int) -> None:
        for _ in range(self._missing(sequence, length)):
            sequence.blocks.append(self.pool.allocate())

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        sequence.drafts = []
        self._wait(sequence)

    def _wait(self, sequence: Sequence) -> None:
        """Queue up in order of arrival, ahead of everyone who came later."""
        place = next((i for i, other in enumerate(self.waiting) if other.arrival > sequence.arrival), len(self.waiting))
        self.waiting.insert(place, sequence)

    def _run(self, sequence: Sequence) -> None:
        place = next((i for i, other in enumerate(self.running) if other.arrival > sequence.arrival), len(self.running))
        self.running.insert(place, sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.serials, sequence.num_computed = [], [], 0


def _reusable(sequence: Sequence) -> int:
    """How many leading tokens may come from the prefix cache. The model must run over the last one, to have something
    to sample from, and over the one before each forced token that has yet to get its log-probability."""
    known = len(sequence.token_ids) - 1
    return min(known, sequence.num_prompt + len(sequence.logprobs) - 1) if sequence.unscored else known

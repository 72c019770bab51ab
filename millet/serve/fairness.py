"""Whose turn it is: the virtual token counter.

Every account has a counter of the tokens it was served, input and output weighted. Of the accounts with something
waiting, the one with the least counter goes first. An account that comes back after a rest is lifted to the least
counter of those waiting (where none waits: to that of the account that left the queue last), so that nobody saves up
credit by being idle.

The bound. Let U = input_weight * (longest input) + output_weight * (most output tokens that the entries running at
once can still bring). Counters of accounts that wait never differ by more than U, so two accounts that both wait
through an interval are served weighted tokens that differ by at most 2U in it, and nobody starves. (The paper writes
max(w_p * L_input, w_q * M) for U, M being all tokens, input too, that fit into the batch; here slots are counted and
not tokens of memory, so the two terms add up.)

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, https://arxiv.org/abs/2401.00588, algorithm 2.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """As many wait as may."""


@dataclass(eq=False, slots=True)
class Entry(Generic[T]):
    """One request in the queue or running. input: its tokens. width: how many of the slots it takes."""

    account: str
    item: T
    input: int
    width: int
    number: int
    running: bool = False


class FairQueue(Generic[T]):
    """slots: most sequences that run at once. capacity: most entries that wait. The weights are a token's."""

    def __init__(self, slots: int, capacity: int, input_weight: float = 1.0, output_weight: float = 2.0) -> None:
        self.slots = slots
        self.capacity = capacity
        self.free = slots
        self.waiting = 0
        self.counters: dict[str, float] = {}
        self._input_weight = input_weight
        self._output_weight = output_weight
        self._queues: dict[str, deque[Entry[T]]] = {}  # of those accounts alone that have something waiting
        self._numbers = count()
        self._last: str | None = None  # the account that left the queue last

    def waiting_of(self, account: str) -> int:
        return len(self._queues.get(account, ()))

    def join(self, account: str, item: T, *, input: int = 0, width: int = 1) -> Entry[T]:
        """Wait in line, behind the account's own. Raises QueueFull, and ValueError where it could never run."""
        if not 1 <= width <= self.slots:
            raise ValueError(f"an entry {width} wide never fits into {self.slots} slots")
        if self.waiting >= self.capacity and (self.waiting or width > self.free):
            raise QueueFull
        if account not in self._queues:
            self._lift(account)
            self._queues[account] = deque()
        entry = Entry(account, item, input, width, next(self._numbers))
        self._queues[account].append(entry)
        self.waiting += 1
        return entry

    def _lift(self, account: str) -> None:
        level = 0.0
        if self._queues:
            level = min(self.counters[other] for other in self._queues)
        elif self._last is not None:
            level = self.counters[self._last]
        self.counters[account] = max(self.counters.get(account, 0.0), level)

    def next(self) -> Entry[T] | None:
        """Start the entry whose turn it is, and charge its input. None where none waits or it does not fit yet: nobody
        overtakes a wide one, or it might wait for ever."""
        if not self._queues:
            return None
        entry = self._queues[min(self._queues, key=lambda account: self._rank(account, self.counters[account]))][0]
        if entry.width > self.free:
            return None
        self._remove(entry)
        entry.running = True
        self.free -= entry.width
        self.charge(entry.account, input=entry.input)
        return entry

    def _rank(self, account: str, counter: float) -> tuple[float, int]:
        """Of two with the same counter, the one that has waited longer goes first."""
        return counter, self._queues[account][0].number

    def charge(self, account: str, *, input: int = 0, output: int = 0) -> None:
        """Count tokens that the account was served."""
        self.counters[account] += self._input_weight * input + self._output_weight * output

    def leave(self, entry: Entry[T]) -> None:
        """Done, or given up while it waited. Once for every entry."""
        if entry.running:
            entry.running = False
            self.free += entry.width
        else:
            self._remove(entry)

    def _remove(self, entry: Entry[T]) -> None:
        queue = self._queues[entry.account]
        queue.remove(entry)
        self.waiting -= 1
        if not queue:
            del self._queues[entry.account]
            self._last = entry.account

    def position(self, entry: Entry[T]) -> int:
        """0 when it runs, 1 when it is next: its place in the order in which all would start if nobody else came and
        nothing but inputs were charged meanwhile."""
        if entry.running:
            return 0
        counters = {account: self.counters[account] for account in self._queues}
        heads = dict.fromkeys(counters, 0)
        for place in range(1, self.waiting + 1):
            account = min(counters, key=lambda a: (counters[a], self._queues[a][heads[a]].number))
            first = self._queues[account][heads[account]]
            if first is entry:
                return place
            counters[account] += self._input_weight * first.input
            heads[account] += 1
            if heads[account] == len(self._queues[account]):
                del counters[account]
        raise ValueError("the entry has left the queue")

"""The fair queue keeps its bound under any traffic, forgets nobody, and never idles while somebody waits."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from millet.serve.fairness import Entry, FairQueue, QueueFull

ACCOUNTS = "abcd"
LONGEST_INPUT = 12
MOST_OUTPUT = 9
INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0


class Traffic(RuleBasedStateMachine):
    """Joins, cancellations and steps of a batch in any order; after each, whatever fits has been started."""

    @initialize(slots=st.integers(1, 4), capacity=st.integers(0, 12))
    def begin(self, slots: int, capacity: int) -> None:
        self.queue: FairQueue[int] = FairQueue(slots, capacity, INPUT_WEIGHT, OUTPUT_WEIGHT)
        self.bound = INPUT_WEIGHT * LONGEST_INPUT + OUTPUT_WEIGHT * slots * MOST_OUTPUT
        self.left: dict[Entry[int], int] = {}  # running: the tokens that each of its sequences still brings
        self.lines: dict[str, list[Entry[int]]] = {account: [] for account in ACCOUNTS}
        self.served = dict.fromkeys(ACCOUNTS, 0.0)
        self.extremes: dict[tuple[str, str], tuple[float, float]] = {}

    @rule(account=st.sampled_from(ACCOUNTS), input=st.integers(1, LONGEST_INPUT), output=st.integers(1, MOST_OUTPUT),
          width=st.integers(1, 4))  # fmt: skip
    def join(self, account: str, input: int, output: int, width: int) -> None:
        width = min(width, self.queue.slots)
        full = self.queue.waiting >= self.queue.capacity and (self.queue.waiting > 0 or width > self.queue.free)
        try:
            entry = self.queue.join(account, output, input=input, width=width)
        except QueueFull:
            assert full
            return
        assert not full
        self.lines[account].append(entry)
        self._start()

    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for entry in list(self.left):
                self.queue.charge(entry.account, output=entry.width)
                self.served[entry.account] += OUTPUT_WEIGHT * entry.width
                self.left[entry] -= 1
                if not self.left[entry]:
                    del self.left[entry]
                    self.queue.leave(entry)
            self._start()
            self.bounded()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        there = [entry for line in self.lines.values() for entry in line] + list(self.left)
        if there:
            entry = data.draw(st.sampled_from(there))
            self.queue.leave(entry)
            if self.left.pop(entry, None) is None:
                self.lines[entry.account].remove(entry)
            self._start()

    def _start(self) -> None:
        before = dict(self.queue.counters)
        while (entry := self.queue.next()) is not None:
            assert before[entry.account] == min(before[account] for account, line in self.lines.items() if line)
            before = dict(self.queue.counters)
            assert entry is self.lines[entry.account].pop(0)  # an account's own: first come, first served
            self.left[entry] = entry.item
            self.served[entry.account] += INPUT_WEIGHT * entry.input
            self.watch()

    def watch(self) -> None:
        """For each pair that waits since some time: the differences of their service since then."""
        for pair in combinations(ACCOUNTS, 2):
            if not all(self.lines[account] for account in pair):
                self.extremes.pop(pair, None)
                continue
            difference = self.served[pair[0]] - self.served[pair[1]]
            low, high = self.extremes.get(pair, (difference, difference))
            self.extremes[pair] = min(low, difference), max(high, difference)

    @invariant()
    def bounded(self) -> None:
        self.watch()
        assert all(high - low <= 2 * self.bound for low, high in self.extremes.values())
        levels = [self.queue.counters[account] for account, line in self.lines.items() if line]
        assert not levels or max(levels) - min(levels) <= self.bound

    @invariant()
    def works(self) -> None:
        """While one waits, the one whose turn it is does not fit."""
        waiting = [entry for line in self.lines.values() for entry in line]
        assert self.queue.waiting == len(waiting) <= max(self.queue.capacity, 0)
        assert self.queue.free == self.queue.slots - sum(entry.width for entry in self.left)
        if waiting:
            first = min(waiting, key=self.queue.position)
            assert self.queue.position(first) == 1
            assert first.width > self.queue.free
        assert sorted(map(self.queue.position, waiting)) == list(range(1, len(waiting) + 1))
        assert all(self.queue.position(entry) == 0 for entry in self.left)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=120, stateful_step_count=40, suppress_health_check=list(HealthCheck))


def test_the_position_is_the_order_of_starting() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        queue: FairQueue[int] = FairQueue(100, 100)
        for account in ACCOUNTS:
            queue.leave(queue.join(account, 0))
            queue.charge(account, output=rng.randrange(20))
        entries = [queue.join(rng.choice(ACCOUNTS), 0, input=rng.randrange(10)) for _ in range(20)]
        expected = sorted(entries, key=queue.position)
        assert [queue.next() for _ in entries] == expected


def test_a_newcomer_does_not_wait_behind_a_flood() -> None:
    queue: FairQueue[str] = FairQueue(1, 1000)
    for _ in range(500):
        queue.join("flood", "", input=10)
    running = queue.next()
    assert running is not None
    queue.charge("flood", output=50)
    newcomer = queue.join("new", "", input=10)
    queue.leave(running)
    starts = 1
    while (entry := queue.next()) is not newcomer:
        assert entry is not None
        queue.charge(entry.account, output=50)
        queue.leave(entry)
        starts += 1
    assert starts <= 2  # equal counters after the lift: at most the flood's next goes first


def test_nobody_starves_while_others_pour_in() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    queue: FairQueue[int] = FairQueue(2, 50, INPUT_WEIGHT, OUTPUT_WEIGHT)
    bound = INPUT_WEIGHT * LONGEST_INPUT + OUTPUT_WEIGHT * 2 * MOST_OUTPUT
    for other in "bcd":
        queue.join(other, 0, input=5)
    patient = queue.join("a", 0, input=5)
    served = 0.0
    entry = None
    while entry is not patient:
        for other in "bcd":
            while queue.waiting_of(other) < 5:
                queue.join(other, 0, input=rng.randint(1, LONGEST_INPUT))
        entry = queue.next()
        assert entry is not None
        output = rng.randint(1, MOST_OUTPUT)
        queue.charge(entry.account, output=output)
        queue.leave(entry)
        served += INPUT_WEIGHT * entry.input + OUTPUT_WEIGHT * output
        assert served <= 3 * 2 * bound


def test_an_idle_account_saves_up_nothing() -> None:
    queue: FairQueue[str] = FairQueue(1, 100)
    for _ in range(20):
        queue.join("busy", "", input=100)
    for _ in range(10):
        entry = queue.next()
        assert entry is not None
        queue.leave(entry)
    for _ in range(10):
        queue.join("rested", "", input=100)
    order = []
    while (entry := queue.next()) is not None:
        order.append(entry.account)
        queue.leave(entry)
    assert sorted(order[:10]) == ["busy"] * 5 + ["rested"] * 5


def test_an_empty_queue_remembers_who_left_last() -> None:
    queue: FairQueue[str] = FairQueue(1, 100)
    running = queue.join("busy", "", input=100)
    assert queue.next() is running
    queue.join("rested", "", input=100)
    assert queue.counters["rested"] == queue.counters["busy"] == 100


def test_bounds() -> None:
    queue: FairQueue[str] = FairQueue(2, 0)
    queue.join("a", "")
    assert queue.next() is not None
    with pytest.raises(QueueFull):
        queue.join("a", "", width=2)
    with pytest.raises(ValueError, match="never fits"):
        queue.join("a", "", width=3)

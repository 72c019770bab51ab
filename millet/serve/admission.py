"""Who may begin, who waits, who is sent away: decided before the first byte of the answer.

Everything here belongs to the event loop's thread, and nothing waits but `Ticket.admitted`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from millet.reasoning.reply import Usage
from millet.serve.caller import Caller, Limits
from millet.serve.config import Prices
from millet.serve.errors import ApiError
from millet.serve.fairness import Entry, FairQueue, QueueFull

MINUTE = 60.0
DAY = 86_400.0
SHARE = 0.5  # of the queue, for one account
FIRST_GUESS = 10.0  # seconds that a reply takes, until one has been measured
REMEMBERED = 64  # replies whose times are averaged


@dataclass(frozen=True, slots=True)
class Spending:
    """today: spent under this key (without one: by this account) in this UTC day. balance: what the account has left;
    None where it has no balance to use up. of_account: spent today under all its keys. All in the currency of the
    prices."""

    today: float = 0.0
    balance: float | None = None
    of_account: float = 0.0


@dataclass(eq=False, slots=True)
class Use:
    began: float
    amount: int
    expired: bool = False


class Window:
    """How much was used within the last minute, exactly: a sliding window. An amount counts for a minute from when it
    was reserved, and may be corrected meanwhile."""

    def __init__(self) -> None:
        self._total = 0
        self._uses: deque[Use] = deque()

    def reserve(self, now: float, amount: int) -> Use:
        use = Use(now, amount)
        self._uses.append(use)
        self._total += amount
        return use

    def settle(self, use: Use, amount: int) -> None:
        if not use.expired:
            self._total += amount - use.amount
            use.amount = amount

    def wait(self, now: float, amount: int, limit: int | None) -> float:
        """Seconds until `amount` more fits under the limit, if nothing else comes; 0 when it fits now. The amount
        alone must fit."""
        while self._uses and now - self._uses[0].began >= MINUTE:
            use = self._uses.popleft()
            use.expired = True
            self._total -= use.amount
        if limit is None:
            return 0.0
        excess = self._total + amount - limit
        until = now
        for use in self._uses:
            if excess <= 0:
                break
            excess -= use.amount
            until = use.began + MINUTE
        return until - now


@dataclass(slots=True)
class LastMinute:
    """What one key, or an account with all its keys, has used, and how many of its requests are under way."""

    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    under_way: int = 0


@dataclass(eq=False, slots=True)
class Turn:
    """When a request came, and when its turn did."""

    came: float
    began: float | None = None
    event: asyncio.Event = field(default_factory=asyncio.Event)


class Ticket:
    """A request's place: waiting, running, or over. Release it in every way out; `with` does, if nobody did before."""

    def __init__(
        self,
        admission: Admission,
        caller: Caller,
        entry: Entry[Turn],
        reserved: list[tuple[LastMinute, Use]],
        prompt_tokens: int,
        cost: float,
    ) -> None:
        self.caller = caller
        self.entry = entry
        self.reserved = reserved
        self.cost = cost
        """Of the worst case."""
        self.prompt_tokens = prompt_tokens
        self.output_tokens = 0
        """Charged so far."""
        self._admission = admission

    @property
    def position(self) -> int:
        """0 once it runs, or is over; 1 when it is next."""
        return self._admission.position(self)

    @property
    def estimated_wait(self) -> float:
        """Seconds until its turn, as the recent replies went."""
        return self.position * self._admission.seconds_per_start

    @property
    def waited(self) -> float | None:
        """Seconds until its turn came; None while it has not."""
        turn = self.entry.item
        return None if turn.began is None else turn.began - turn.came

    async def admitted(self, timeout: float | None = None) -> bool:
        """Wait until its turn comes, for `timeout` seconds at most. False: not yet; ask again."""
        turn = self.entry.item.event
        try:
            async with asyncio.timeout(timeout):
                await turn.wait()
        except TimeoutError:
            pass
        return turn.is_set()

    def charge(self, *, input: int = 0, output: int = 0) -> None:
        """Count tokens as they are made. The prompt's are counted when its turn comes; `input` is for what was more
        than the estimate."""
        self.prompt_tokens += input
        self.output_tokens += output
        self._admission.queue.charge(self.entry.account, input=input, output=output)

    def release(self, usage: Usage | None = None) -> None:
        """It is over, well or badly, and the next may begin. usage: of all samples together, where it is known; else
        what was charged counts. Only the first release does anything."""
        self._admission.release(self, usage)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _scopes(caller: Caller) -> dict[tuple[str, str | None], Limits]:
    """Under what a request is counted, and with what limits: its key, and its account with all keys, which is None."""
    if caller.key is None:
        return {(caller.account, None): caller.limits}
    return {(caller.account, caller.key): caller.limits, (caller.account, None): caller.of_account}


class Admission:
    """slots: most sequences computed at once; a request with n samples takes n. capacity: requests that may wait.
    Record what a reply cost before its release. utc: seconds since 1970. share: of the queue's places, for
    one account.

    A key's limits are counted under the key, and its account's under all keys together. Requests and tokens per minute
    are sliding windows; of tokens, the worst case is reserved, and set right when the request ends.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        prices: Prices | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        utc: Callable[[], float] = time.time,
        share: float = SHARE,
    ) -> None:
        self.queue: FairQueue[Turn] = FairQueue(slots, capacity)
        self._clock = clock
        self._prices = prices or Prices()
        self._utc = utc
        self._places = max(1, round(capacity * share))
        self._tickets: set[Ticket] = set()
        self._used: dict[tuple[str, str | None], LastMinute] = {}
        self._slot_seconds: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self.queue.waiting

    @property
    def running(self) -> int:
        """Slots in use."""
        return self.queue.slots - self.queue.free

    @property
    def seconds_per_reply(self) -> float:
        """Mean of the recent ones, a slot's seconds: n samples count n times."""
        known = self._slot_seconds
        return sum(known) / len(known) if known else FIRST_GUESS

    @property
    def seconds_per_start(self) -> float:
        """How often a slot comes free while all are busy."""
        return self.seconds_per_reply / self.queue.slots

    def check(self, caller: Caller) -> None:
        """What can be refused before a request costs any work: ApiError 429 and 503, as from `enter`."""
        now = self._clock()
        for whose, limits in _scopes(caller).items():
            self._check_rates(limits, self._used.setdefault(whose, LastMinute()), now, Usage())
        if self.queue.waiting >= self.queue.capacity and not self.queue.free:
            raise self._full()

    def count(self, caller: Caller) -> None:
        """A request that is answered without the engine counts among those of the minute. Raises as `check`."""
        self.check(caller)
        for whose in _scopes(caller):
            self._used[whose].requests.reserve(self._clock(), 1)

    def enter(
        self,
        caller: Caller,
        *,
        prompt_tokens: int,
        max_tokens: int,
        samples: int = 1,
        spending: Spending = Spending(),
    ) -> Ticket:
        """A place, running or waiting. prompt_tokens may be an estimate; max_tokens is each sample's. spending: of the
        caller so far.

        Raises ApiError: 429 for the caller's own limits, 413 where the request alone is over its tokens per minute,
        402 when the money is used up, 422 for more samples than there are slots, 503 when the queue is full.
        """
        now = self._clock()
        if samples > self.queue.slots:
            raise ApiError(
                422, f"n is {samples}, but at most {self.queue.slots} replies are computed at once", param="n"
            )
        worst = Usage(prompt_tokens=prompt_tokens, completion_tokens=samples * max_tokens)
        cost = self._prices.cost(worst)
        scopes = [(self._used.setdefault(whose, LastMinute()), limits) for whose, limits in _scopes(caller).items()]
        for used, limits in scopes:
            self._check_rates(limits, used, now, worst)
        if cost:
            self._check_money(caller, spending)
        if self.queue.waiting or samples > self.queue.free:
            self._check_share(caller.account)
        try:
            entry = self.queue.join(caller.account, Turn(now), input=prompt_tokens, width=samples)
        except QueueFull:
            raise self._full() from None
        reserved = []
        for used, _ in scopes:
            used.under_way += 1
            used.requests.reserve(now, 1)
            reserved.append((used, used.tokens.reserve(now, worst.prompt_tokens + worst.completion_tokens)))
        ticket = Ticket(self, caller, entry, reserved, prompt_tokens, cost)
        self._tickets.add(ticket)
        self._advance()
        return ticket

    def _full(self) -> ApiError:
        message = "as many requests wait as the server takes; try again soon"
        return ApiError(503, message, code="queue_full", retry_after=self.seconds_per_start)

    def _check_rates(self, limits: Limits, used: LastMinute, now: float, worst: Usage) -> None:
        tokens = worst.prompt_tokens + worst.completion_tokens
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise ApiError(
                413,
                f"this request may take {tokens} tokens (prompt {worst.prompt_tokens}, reply up to "
                f"{worst.completion_tokens}) and the limit is {limits.tokens_per_minute} a minute; "
                "lower max_tokens or shorten the messages",
                code="tokens_per_minute",
            )
        mine = used.under_way
        if limits.concurrency is not None and mine >= limits.concurrency:
            message = (
                f"{mine} requests are under way, and the limit is {limits.concurrency} at once; wait for one to end"
            )
            raise ApiError(429, message, code="concurrency", retry_after=self.seconds_per_reply / max(1, mine))
        waits = (
            (used.requests.wait(now, 1, limits.requests_per_minute), "requests", limits.requests_per_minute),
            (used.tokens.wait(now, tokens, limits.tokens_per_minute), "tokens", limits.tokens_per_minute),
        )
        wait, unit, limit = max(waits, key=lambda one: one[0])
        if wait > 0:
            message = f"the limit of {limit} {unit} a minute is reached; try again in {ceil(wait)} seconds"
            raise ApiError(429, message, code=f"{unit}_per_minute", retry_after=wait)

    def _check_money(self, caller: Caller, spending: Spending) -> None:
        """What replies under way may cost at worst is counted as well, so that they cannot overdraw together."""
        under_way = [ticket for ticket in self._tickets if ticket.caller.account == caller.account]
        of_account = sum(ticket.cost for ticket in under_way)
        if spending.balance is not None:
            if spending.balance <= 0:
                raise ApiError(402, "the balance is used up; ask the operator to add to it", code="balance")
            self._check_promised(spending.balance - of_account, "the balance", "balance")
        if caller.key is None:
            self._check_day(caller.limits, spending.today, of_account)
        else:
            of_key = sum(ticket.cost for ticket in under_way if ticket.caller.key == caller.key)
            self._check_day(caller.limits, spending.today, of_key)
            self._check_day(caller.of_account, spending.of_account, of_account)

    def _check_day(self, limits: Limits, today: float, promised: float) -> None:
        limit, currency = limits.spend_per_day, self._prices.currency
        if limit is None:
            return
        if today >= limit:
            message = f"today's {limit:g} {currency} are spent; the limit begins anew at 00:00 UTC"
            raise ApiError(402, message, code="spend_per_day", retry_after=DAY - self._utc() % DAY)
        self._check_promised(limit - today - promised, f"today's {limit:g} {currency}", "spend_per_day")

    def _check_promised(self, left: float, what: str, code: str) -> None:
        if left <= 0:
            message = f"the requests under way may use up {what}; wait for one to end, or lower max_tokens"
            raise ApiError(429, message, code=code, retry_after=self.seconds_per_reply)

    def position(self, ticket: Ticket) -> int:
        waits = ticket in self._tickets and ticket.entry.item.began is None
        return self.queue.position(ticket.entry) if waits else 0

    def _check_share(self, account: str) -> None:
        waiting = self.queue.waiting_of(account)
        if self._places <= waiting < self.queue.capacity:
            message = (
                f"{waiting} of this account's requests wait already, its share of the queue; wait for one to begin"
            )
            raise ApiError(429, message, code="queue_share", retry_after=self.seconds_per_start)

    def _advance(self) -> None:
        while (entry := self.queue.next()) is not None:
            entry.item.began = self._clock()
            entry.item.event.set()

    def release(self, ticket: Ticket, usage: Usage | None) -> None:
        if ticket not in self._tickets:
            return
        self._tickets.remove(ticket)
        entry, ran = ticket.entry, ticket.entry.running
        if usage is None:
            usage = Usage(ticket.prompt_tokens if ran else 0, ticket.output_tokens)
        elif ran:  # an upstream's tokens are known only now
            uncharged = usage.completion_tokens - ticket.output_tokens
            ticket.charge(input=max(0, usage.prompt_tokens - ticket.prompt_tokens), output=max(0, uncharged))
        tokens = usage.prompt_tokens + usage.completion_tokens
        for used, use in ticket.reserved:
            used.tokens.settle(use, tokens)
            used.under_way -= 1
        if entry.item.began is not None:
            self._slot_seconds.append((self._clock() - entry.item.began) * entry.width)
        self.queue.leave(entry)
        self._advance()

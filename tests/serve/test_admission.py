"""Limits, money and places in the queue, with a clock that only the test moves."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from millet.reasoning.reply import Usage
from millet.serve.admission import FIRST_GUESS, Admission, Spending, Ticket
from millet.serve.caller import Caller, Limits
from millet.serve.config import Prices
from millet.serve.errors import ApiError


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def caller(account: str = "a", key: str | None = None, **limits: float) -> Caller:
    return Caller(account, key=key, limits=Limits(**limits))  # type: ignore[arg-type]


NOTHING = Spending()


def enter(
    admission: Admission,
    who: Caller,
    prompt: int = 10,
    most: int = 10,
    samples: int = 1,
    spent: Spending = NOTHING,
) -> Ticket:
    return admission.enter(who, prompt_tokens=prompt, max_tokens=most, samples=samples, spending=spent)


def refused(
    admission: Admission,
    who: Caller,
    prompt: int = 10,
    most: int = 10,
    samples: int = 1,
    spent: Spending = NOTHING,
) -> ApiError:
    before = admission.waiting, admission.running
    with pytest.raises(ApiError) as caught:
        enter(admission, who, prompt, most, samples, spent)
    assert (admission.waiting, admission.running) == before
    return caught.value


def test_runs_at_once_where_there_is_a_slot(clock: Clock) -> None:
    admission = Admission(2, 4, clock=clock)
    ticket = enter(admission, caller())
    assert (ticket.position, ticket.estimated_wait, ticket.waited) == (0, 0.0, 0.0)
    assert asyncio.run(ticket.admitted())
    assert admission.running == 1
    ticket.release()
    assert admission.running == 0


def test_waits_and_is_told_its_turn(clock: Clock) -> None:
    async def scene() -> None:
        admission = Admission(1, 4, clock=clock)
        first, second = enter(admission, caller()), enter(admission, caller("b"))
        assert second.position == 1
        assert second.waited is None
        assert not await second.admitted(timeout=0)
        waiting = asyncio.create_task(second.admitted())
        await asyncio.sleep(0)
        clock.now += 3
        first.release()
        assert await waiting
        assert await second.admitted(timeout=0)
        assert second.waited == 3

    asyncio.run(scene())


def test_a_wide_request_takes_as_many_slots_and_is_not_overtaken(clock: Clock) -> None:
    admission = Admission(4, 4, clock=clock)
    first = enter(admission, caller("a"), samples=2)
    wide = enter(admission, caller("b"), samples=3)
    narrow = enter(admission, caller("c"))
    assert (admission.running, wide.position, narrow.position) == (2, 1, 2)
    first.release()
    assert (admission.running, wide.position, narrow.position) == (4, 0, 0)
    error = refused(admission, caller(), samples=5)
    assert (error.status, error.param) == (422, "n")


def test_the_account_with_fewer_tokens_goes_first(clock: Clock) -> None:
    admission = Admission(1, 8, clock=clock)
    running = enter(admission, caller("a"))
    greedy, modest = enter(admission, caller("a")), enter(admission, caller("b"))
    for _ in range(100):
        running.charge(output=1)
    assert (greedy.position, modest.position) == (2, 1)
    running.release()
    assert (greedy.position, modest.position) == (1, 0)


def test_what_was_not_charged_meanwhile_is_charged_at_the_end(clock: Clock) -> None:
    admission = Admission(1, 8, clock=clock)
    running = enter(admission, caller("a"), prompt=10)
    running.charge(output=5)
    running.release(Usage(prompt_tokens=30, completion_tokens=7))
    assert admission.queue.counters["a"] == 30 + 2 * 7


def test_a_released_place_is_free_once_only(clock: Clock) -> None:
    admission = Admission(1, 4, clock=clock)
    first, waiting, last = (enter(admission, caller(name)) for name in "abc")
    waiting.release()
    waiting.release()
    assert (admission.waiting, last.position) == (1, 1)
    first.release(Usage(10, 5))
    first.release()
    assert (admission.waiting, admission.running, last.position) == (0, 1, 0)
    with pytest.raises(RuntimeError), last:
        raise RuntimeError
    assert admission.running == 0


def test_cancelled_while_waiting(clock: Clock) -> None:
    async def scene() -> None:
        admission = Admission(1, 4, clock=clock)
        first = enter(admission, caller("a"))

        async def request() -> None:
            with enter(admission, caller("b")) as ticket:
                await ticket.admitted()

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        assert admission.waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (admission.waiting, admission.running) == (0, 1)
        first.release()
        assert admission.running == 0

    asyncio.run(scene())


def test_concurrency_is_the_keys_own(clock: Clock) -> None:
    admission = Admission(8, 8, clock=clock)
    tickets = [enter(admission, caller("a", "k", concurrency=2)) for _ in range(2)]
    error = refused(admission, caller("a", "k", concurrency=2))
    assert (error.status, error.code, error.retry_after) == (429, "concurrency", FIRST_GUESS / 2)
    enter(admission, caller("a", "other", concurrency=2))
    enter(admission, caller("b", concurrency=1))
    tickets[0].release()
    enter(admission, caller("a", "k", concurrency=2))


def test_more_keys_are_not_more_of_the_accounts_limits(clock: Clock) -> None:
    spent = Spending(today=1.0, of_account=9.0)
    admission = Admission(8, 8, PRICES, clock, utc=lambda: 0.0)

    def with_key(number: int, **limits: float) -> Caller:
        return Caller("a", key=f"k{number}", of_account=Limits(**limits))  # type: ignore[arg-type]

    tickets = [enter(admission, with_key(number, concurrency=2, spend_per_day=100), spent=spent) for number in range(2)]
    assert refused(admission, with_key(2, concurrency=2)).code == "concurrency"
    assert refused(admission, caller("a", concurrency=2)).code == "concurrency"  # a browser session
    assert refused(admission, with_key(3, requests_per_minute=2)).code == "requests_per_minute"
    assert refused(admission, with_key(3, tokens_per_minute=50)).code == "tokens_per_minute"
    assert refused(admission, with_key(3, spend_per_day=9), spent=spent).status == 402
    assert refused(admission, with_key(3, spend_per_day=29)).status == 429  # 20 more are promised
    for ticket in tickets:
        ticket.release(Usage(5, 0))
    enter(admission, with_key(4, concurrency=1, tokens_per_minute=30, spend_per_day=10))


def test_who_has_left_the_queue_has_no_place_in_it(clock: Clock) -> None:
    admission = Admission(1, 4, clock=clock)
    enter(admission, caller("a"))
    waiting = enter(admission, caller("b"))
    assert waiting.position == 1
    waiting.release()
    assert (waiting.position, waiting.estimated_wait) == (0, 0.0)


def test_requests_per_minute_slide(clock: Clock) -> None:
    admission = Admission(8, 8, clock=clock)
    who = caller(requests_per_minute=2)
    enter(admission, who).release()
    clock.now += 20
    enter(admission, who).release()
    clock.now += 10
    error = refused(admission, who)
    assert (error.status, error.code, error.retry_after) == (429, "requests_per_minute", 30.0)
    assert error.headers == {"Retry-After": "30"}
    clock.now += 30
    enter(admission, who).release()
    assert refused(admission, who).retry_after == 20.0


def test_tokens_per_minute_are_reserved_and_then_set_right(clock: Clock) -> None:
    admission = Admission(8, 8, clock=clock)
    who = caller(tokens_per_minute=100)
    first = enter(admission, who, prompt=10, most=70)
    clock.now += 15
    error = refused(admission, who, prompt=20, most=20)
    assert (error.status, error.code, error.retry_after) == (429, "tokens_per_minute", 45.0)
    first.release(Usage(prompt_tokens=10, completion_tokens=20))
    second = enter(admission, who, prompt=30, most=40)
    clock.now += 50  # the first's 30 tokens are out of the window
    second.release()  # what was charged: the prompt
    enter(admission, who, prompt=70, most=0)
    assert refused(admission, who, prompt=1, most=0).retry_after == 10.0


def test_a_settlement_after_its_minute_changes_nothing(clock: Clock) -> None:
    admission = Admission(8, 8, clock=clock)
    who = caller(tokens_per_minute=100)
    slow = enter(admission, who, prompt=10, most=90)
    clock.now += 61
    enter(admission, who, prompt=100, most=0)
    slow.release(Usage(10, 5))
    assert refused(admission, who, prompt=1, most=0).status == 429


def test_a_request_that_never_fits_is_told_so(clock: Clock) -> None:
    error = refused(Admission(8, 8, clock=clock), caller(tokens_per_minute=100), prompt=20, most=50, samples=2)
    assert (error.status, error.code, error.retry_after) == (413, "tokens_per_minute", None)
    assert "120 tokens" in str(error)
    assert "max_tokens" in str(error)


def test_windows_agree_with_a_plain_count(clock: Clock) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    admission = Admission(1, 0, clock=clock)
    who = caller(requests_per_minute=7, tokens_per_minute=300)
    log: list[tuple[float, int]] = []
    for _ in range(500):
        clock.now += rng.choice([0, 1, 2, 5, 30])
        recent = [tokens for at, tokens in log if clock.now - at < 60]
        prompt, most = rng.randrange(1, 50), rng.randrange(80)
        if len(recent) < 7 and sum(recent) + prompt + most <= 300:
            used = rng.randint(0, most)
            enter(admission, who, prompt, most).release(Usage(prompt, used))
            log.append((clock.now, prompt + used))
        else:
            error = refused(admission, who, prompt, most)
            assert error.retry_after is not None
            clock.now += error.retry_after - 0.001
            assert refused(admission, who, prompt, most).code == error.code
            clock.now += 0.001 + 1e-6
            enter(admission, who, prompt, most).release(Usage(prompt, 0))  # worth trying then, and not before
            log.append((clock.now, prompt))


PRICES = Prices(input=1_000_000, output=1_000_000)  # one for each token


def test_money(clock: Clock) -> None:
    spent = Spending(0.0, 100.0)
    admission = Admission(8, 8, PRICES, clock, utc=lambda: 86_400 * 3 + 400)
    who = caller(spend_per_day=60)
    first = enter(admission, who, prompt=10, most=50, spent=spent)
    error = refused(admission, who, spent=spent)  # it may use up the day
    assert (error.status, error.code, error.retry_after) == (429, "spend_per_day", FIRST_GUESS)
    # Another key of the account: 60 of 100 are promised.
    other = enter(admission, caller(key="k"), prompt=20, most=20, spent=spent)
    error = refused(admission, caller(key="k"), spent=spent)
    assert (error.status, error.code) == (429, "balance")
    first.release(Usage(10, 0))
    other.release(Usage(20, 0))
    error = refused(admission, who, spent=Spending(60.0, 40.0))
    assert (error.status, error.code, error.retry_after) == (402, "spend_per_day", 86_000.0)
    error = refused(admission, who, spent=Spending(0.0, 0.0))
    assert (error.status, error.code) == (402, "balance")


def test_what_costs_nothing_needs_no_balance(clock: Clock) -> None:
    enter(Admission(1, 1, clock=clock), caller(spend_per_day=1), spent=Spending(5.0, 0.0))


def test_what_is_refused_before_any_work(clock: Clock) -> None:
    admission = Admission(1, 1, clock=clock)
    admission.count(caller(requests_per_minute=1))
    with pytest.raises(ApiError) as caught:
        admission.check(caller(requests_per_minute=1))
    assert caught.value.code == "requests_per_minute"
    running, waiting = enter(admission, caller("b")), enter(admission, caller("c"))
    with pytest.raises(ApiError) as caught:
        admission.check(caller("d"))
    assert (caught.value.status, caught.value.code) == (503, "queue_full")
    waiting.release()
    admission.check(caller("d"))
    running.release()


def test_a_full_queue_and_an_accounts_share_of_it(clock: Clock) -> None:
    admission = Admission(1, 4, clock=clock)
    running = enter(admission, caller("a"))
    enter(admission, caller("a"))
    enter(admission, caller("a"))
    error = refused(admission, caller("a", "another key"))
    assert (error.status, error.code, error.retry_after) == (429, "queue_share", FIRST_GUESS)
    enter(admission, caller("b"))
    enter(admission, caller("c"))
    error = refused(admission, caller("d"))
    assert (error.status, error.code, error.retry_after) == (503, "queue_full", FIRST_GUESS)
    running.release()
    enter(admission, caller("d"))


def test_a_refused_request_counts_for_nothing(clock: Clock) -> None:
    admission = Admission(1, 0, clock=clock)
    who = caller(requests_per_minute=2, tokens_per_minute=40)
    running = enter(admission, who)
    for _ in range(5):
        assert refused(admission, who).status == 503
    running.release(Usage(10, 10))
    enter(admission, who)


def test_the_estimate_follows_recent_replies(clock: Clock) -> None:
    admission = Admission(2, 8, clock=clock)
    for seconds in (2, 4):
        ticket = enter(admission, caller())
        clock.now += seconds
        ticket.release()
    wide = enter(admission, caller(), samples=2)
    second = enter(admission, caller("b"))
    third = enter(admission, caller("c"))
    assert (second.estimated_wait, third.estimated_wait) == (1.5, 3.0)
    clock.now += 3
    wide.release()
    assert admission.seconds_per_reply == (2 + 4 + 6) / 3

"""A limiter that is told what a server's headers say: it pauses, drains, and admits no more than was stated."""

from __future__ import annotations

import asyncio
import copy
import math
from functools import partial
from typing import Any

import pytest
from waiters import Waiters

from aiolimiter_fast import AcquireTimeout, LimitReached
from aiolimiter_fast.testing import ManualClock

NO_NUMBERS: list[Any] = [True, "1", b"1", [], 1j]


class TestPause:
    async def test_nobody_is_admitted_before_the_instant(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 5)
        assert not limiter.has_capacity()
        assert not limiter.has_capacity(0)
        assert not limiter.try_acquire()
        assert not limiter.try_acquire(0)
        assert limiter.wait_time() == 5.0
        with pytest.raises(LimitReached) as reached:
            await limiter.acquire(block=False)
        assert reached.value.retry_after == 5.0
        waiters = Waiters(limiter, clock)
        waiters.add("a")
        await clock.run(5.0 - 1e-9)
        assert waiters.served == []
        await clock.run(1e-9)
        assert waiters.served == [("a", 5.0)]

    async def test_no_burst_follows_but_the_rate(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        waiters = Waiters(limiter, clock)
        limiter.pause_until(clock.time() + 60)
        for name in "abcd":
            waiters.add(name)
        await clock.run(61)
        assert waiters.served == [("a", 60.0), ("b", 60.1), ("c", 60.2), ("d", 60.3)]

    async def test_it_is_exact_also_for_more_than_one_permit(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 7)
        assert limiter.wait_time(3) == 7.2
        waiters = Waiters(limiter, clock)
        waiters.add("three", 3)
        await clock.settle()
        assert limiter.wait_time(1) == 7.0  # smaller amounts go first
        assert limiter.wait_time(4) == 7.6
        assert "waiters: 1, waking in 7200000 \N{MICRO SIGN}s" in repr(limiter)
        await clock.run(8)
        assert waiters.served == [("three", 7.2)]

    async def test_a_bucket_that_is_fuller_stays_so(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 10, burst=4)
        await limiter.acquire(4)
        limiter.pause_until(clock.time() + 1)
        assert limiter.wait_time() == 10.0

    async def test_long_after_it_the_burst_is_back(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 5)
        await clock.run(5.5)
        assert [limiter.try_acquire() for _ in range(7)] == [True] * 6 + [False]
        await clock.run(10)
        assert limiter.has_capacity(10)

    async def test_those_who_wait_already_wait_on_in_order(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.run(0.5)
        limiter.pause_until(clock.time() + 10)
        await clock.run(20)
        assert waiters.served == [("a", 10.5), ("b", 11.5), ("c", 12.5)]

    async def test_it_is_never_shortened_but_by_resume(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        start = clock.time()
        limiter.pause_until(start + 10)
        limiter.pause_until(start + 5)
        limiter.pause_until(start - 5)
        assert limiter.wait_time() == 10.0
        limiter.pause_until(start + 20)
        assert limiter.wait_time() == 20.0
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.run(1)
        limiter.resume()
        await clock.run(5)
        assert waiters.served == [("a", 1.0), ("b", 1.1), ("c", 1.2)]
        limiter.resume()  # nothing to end
        assert limiter.has_capacity(4)

    async def test_an_instant_that_has_passed_changes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        for when in (clock.time(), clock.time() - 1, 0, -1e300):
            limiter.pause_until(when)
            assert limiter.has_capacity(10)

    async def test_a_timeout_that_ends_before_it_is_told_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 30)
        with pytest.raises(AcquireTimeout) as error:
            await limiter.acquire(timeout=29)
        assert error.value.retry_after == 30.0
        waiters = Waiters(limiter, clock)
        waiters.add("patient", timeout=30)
        await clock.run(30)
        assert waiters.served == [("patient", 30.0)]

    async def test_a_timeout_ends_in_time_when_the_pause_comes_later(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        task = asyncio.create_task(limiter.acquire(timeout=2))
        await clock.run(0.5)
        limiter.pause_until(clock.time() + 60)
        await clock.run(1.5 - 1e-9)
        assert not task.done()
        await clock.run(1e-9)
        with pytest.raises(AcquireTimeout) as error:
            await task
        assert error.value.retry_after == 58.5

    async def test_an_impatient_crowd_behind_a_pause_is_judged_quickly(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1000, 1, burst=1)
        limiter.pause_until(clock.time() + 5)
        outcomes = await asyncio.gather(
            *(asyncio.create_task(self.outcome(limiter, 10.0)) for _ in range(5_500)), self.time_passes(clock)
        )
        assert outcomes.count(True) in (5000, 5001)

    @staticmethod
    async def outcome(limiter: Any, timeout: float) -> bool:
        try:
            await limiter.acquire(timeout=timeout)
        except AcquireTimeout:
            return False
        return True

    @staticmethod
    async def time_passes(clock: ManualClock) -> None:
        await clock.run(20)

    async def test_those_let_through_before_it_go_on(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        await limiter.acquire(2)
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.settle()
        asyncio.get_running_loop().call_at(clock.time() + 0.5, lambda: limiter.pause_until(clock.time() + 9))
        await clock.run(20)
        assert waiters.served == [("a", 0.5), ("b", 9.5), ("c", 10.0)]

    async def test_one_pauses_while_a_turn_is_being_served(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        await limiter.acquire(2)
        served = []

        async def work(name: str) -> None:
            await limiter.acquire()
            served.append((name, clock.time() - 1000.0))
            if name == "a":
                limiter.pause_until(clock.time() + 10)

        tasks = [asyncio.create_task(work(name)) for name in "abcd"]
        await clock.settle()
        clock.advance(1.0)  # two are due in the same turn
        await clock.run(20)
        assert served == [("a", 1.0), ("b", 1.0), ("c", 11.0), ("d", 11.5)]
        await asyncio.gather(*tasks)

    async def test_a_grant_cancelled_in_a_pause_is_given_back_without_waking_anybody(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        waiters = Waiters(limiter, clock)
        leaver = waiters.add("leaver")
        waiters.add("next")
        await clock.settle()

        def strike() -> None:  # right after the grant, before the task runs on
            limiter.pause_until(clock.time() + 5)
            leaver.cancel()

        asyncio.get_running_loop().call_at(clock.time() + 1, strike)
        await clock.run(5.5)
        assert waiters.served == []
        await clock.run(2)
        assert waiters.served == [("next", 6.0)]

    async def test_waiters_who_leave_during_it_leave_no_trace(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        limiter.pause_until(clock.time() + 5)
        waiters = Waiters(limiter, clock)
        tasks = [waiters.add(str(number)) for number in range(50)]
        await clock.settle()
        for number, task in enumerate(tasks):
            if number % 7:
                task.cancel()
        await clock.run(20)
        assert waiters.served == [(str(7 * number), 5.0 + number) for number in range(8)]

    async def test_ten_thousand_wait_on_one_timer_and_go_in_order(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1000, 1, burst=1)
        await limiter.acquire()
        waiters = Waiters(limiter, clock)
        for number in range(10_000):
            waiters.add(str(number))
        await clock.settle()
        loop: Any = asyncio.get_running_loop()
        limiter.pause_until(clock.time() + 100)
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]
        assert [handle.when() for handle in timers] == [clock.time() + 100]
        await clock.run(50)
        assert waiters.served == []
        limiter.resume()
        assert len([handle for handle in loop._scheduled if not handle.cancelled()]) <= 1
        await clock.run(12)
        assert waiters.names == [str(number) for number in range(10_000)]
        assert waiters.served[0][1] == 50.0
        assert waiters.served[-1][1] == 59.999

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_a_copy_that_is_lowered_rises_to_what_was_set(self, AsyncLimiter: Any, duplicate: Any) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(limit=5)
        other = duplicate(limiter)
        assert (other.max_rate, other.burst) == (5, 5)
        other.sync(limit=20)
        assert (other.max_rate, other.burst) == (10, 10)

    async def test_a_copy_is_not_paused(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 5)
        for other in (copy.copy(limiter), copy.deepcopy(limiter)):
            assert other.has_capacity(10)
        assert not limiter.has_capacity()

    async def test_a_change_of_the_rate_leaves_it(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(clock.time() + 5)
        limiter.max_rate = 100
        limiter.time_period = 2
        limiter.burst = 0.5
        limiter.burst = 50
        assert not limiter.try_acquire()
        await clock.run(5)
        assert [limiter.try_acquire() for _ in range(2)] == [True, False]

    async def test_a_burst_of_less_than_one_permit(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=0.5)
        limiter.pause_until(clock.time() + 5)
        assert not limiter.try_acquire(0.5)
        assert limiter.wait_time(0.5) == 5.0
        await clock.run(5)
        assert limiter.try_acquire(0.5)
        with pytest.raises(ValueError, match=r"exceeds burst=0\.5"):
            limiter.try_acquire()

    async def test_async_with_waits_for_the_end_of_it(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        start = clock.time()
        limiter.pause_until(start + 5)

        async def enter() -> float:
            async with limiter:
                return clock.time() - start

        task = asyncio.create_task(enter())
        await clock.run(5)
        assert await task == 5.0


class TestDrain:
    async def test_the_next_permits_come_at_the_rate(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.drain()
        assert not limiter.has_capacity()
        assert limiter.wait_time() == 0.1
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.run(1)
        assert waiters.served == [("a", 0.1), ("b", 0.2), ("c", 0.3)]

    async def test_twice_is_no_more_than_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.drain()
        limiter.drain()
        assert limiter.wait_time() == 0.1


class TestSync:
    async def test_what_remains_lowers_the_room(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=3)
        assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]
        assert limiter.wait_time() == 0.1

    async def test_and_never_raises_it(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=3)
        limiter.sync(remaining=8)
        limiter.sync(remaining=1e300)
        assert not limiter.has_capacity(4)
        assert limiter.has_capacity(3)

    async def test_no_more_than_remains_until_the_reset(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=3, reset=60)
        waiters = Waiters(limiter, clock)
        for name in "abcde":
            waiters.add(name)
        await clock.run(70)
        assert waiters.served == [("a", 0), ("b", 0), ("c", 0), ("d", 60.0), ("e", 60.1)]

    async def test_none_remaining_is_a_pause(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=0, reset=30)
        assert not limiter.has_capacity()
        assert limiter.has_capacity(0)  # free
        assert limiter.wait_time() == 30.0
        await clock.run(30)
        assert [limiter.try_acquire() for _ in range(2)] == [True, False]

    async def test_what_was_not_used_leaves_the_burst_as_it_is(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=3, reset=30)
        await clock.run(30)
        assert limiter.has_capacity(10)

    async def test_the_bucket_is_obeyed_besides(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=1000, reset=60)
        assert [limiter.try_acquire(5) for _ in range(3)] == [True, True, False]
        assert limiter.wait_time(5) == 0.5

    async def test_a_late_response_raises_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(100, 1)
        limiter.sync(remaining=2, reset=60)
        limiter.sync(remaining=5, reset=60)
        limiter.sync(remaining=50, reset=59.5)
        assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
        assert limiter.wait_time() == 60.0

    async def test_each_statement_holds_until_its_own_reset(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(100, 1)
        limiter.sync(remaining=2, reset=1)  # of the window that ends
        limiter.sync(remaining=5, reset=60)  # of the next, as another response saw it already
        assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
        await clock.run(1)
        waiters = Waiters(limiter, clock)
        for name in "abcd":
            waiters.add(name)
        await clock.run(70)
        assert waiters.served == [("a", 0), ("b", 0.01), ("c", 0.02), ("d", 59.0)]

    async def test_a_long_window_does_not_lengthen_a_short_pause(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(100, 1)
        limiter.pause_until(clock.time() + 5)
        limiter.sync(remaining=50, reset=3600)
        assert limiter.wait_time() == 5.0
        await clock.run(5)
        assert limiter.try_acquire()

    async def test_any_number_of_statements_is_kept_in_little_room(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1000, 1)
        for number in range(1, 100):
            limiter.sync(remaining=number, reset=number)
        for number in range(99, 0, -1):
            limiter.sync(remaining=number - 0.5, reset=number)
        admitted = 0
        for number in range(1, 100):
            while limiter.try_acquire(0.5):
                admitted += 1
            assert admitted * 0.5 <= number - 0.5
            await clock.run(1)
        await clock.run(100)
        assert limiter.has_capacity(1000)

    async def test_more_may_remain_than_the_bucket_ever_holds(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=1)
        limiter.sync(remaining=1e6, reset=3600)
        waiters = Waiters(limiter, clock)
        for name in "abcd":
            waiters.add(name)
        await clock.run(5)
        assert [instant for _, instant in waiters.served] == [0, 1.0, 2.0, 3.0]

    async def test_fractions_add_up_to_what_remains(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 0.7, burst=100)
        limiter.sync(remaining=3, reset=60)
        assert [limiter.try_acquire(0.1) for _ in range(31)] == [True] * 30 + [False]

    async def test_a_wait_behind_others_counts_what_remains(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=1, fair=True)
        limiter.sync(remaining=5, reset=10)
        waiters = Waiters(limiter, clock)
        for name in "abcdefgh":
            waiters.add(name)
        await clock.settle()
        assert limiter.wait_time() == 13.0
        with pytest.raises(AcquireTimeout):
            await limiter.acquire(timeout=12.9)
        waiters.add("i", timeout=13)
        await clock.run(13)
        assert waiters.served[4:] == [("e", 4.0), ("f", 10.0), ("g", 11.0), ("h", 12.0), ("i", 13.0)]

    async def test_resume_forgets_what_was_stated(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=0, reset=3600)
        waiter = asyncio.create_task(limiter.acquire())
        await clock.run(1)
        limiter.resume()
        await clock.settle()
        assert waiter.done()
        assert limiter.wait_time() == 0.1

    async def test_a_grant_cancelled_at_the_worst_moment_is_given_back(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        limiter.sync(remaining=1, reset=3600)
        waiters = Waiters(limiter, clock)
        leaver = waiters.add("leaver")
        waiters.add("next")
        await clock.settle()
        asyncio.get_running_loop().call_at(clock.time() + 1, leaver.cancel)
        await clock.run(10)
        assert leaver.cancelled()
        assert waiters.names == ["next"]  # the last that remained

    async def test_a_grant_from_before_it_gives_nothing_back(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=3)
        await limiter.acquire(3)
        waiters = Waiters(limiter, clock)
        leaver = waiters.add("leaver")
        await clock.settle()

        def strike() -> None:
            limiter.sync(remaining=1, reset=3600)
            leaver.cancel()

        asyncio.get_running_loop().call_at(clock.time() + 1, strike)
        await clock.run(10)
        assert [limiter.try_acquire() for _ in range(2)] == [True, False]

    async def test_a_change_of_the_rate_keeps_what_remains(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(remaining=3, reset=60)
        limiter.time_period = 0.7
        limiter.max_rate = 100
        assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]

    async def test_a_limit_lowers_the_rate_and_gives_it_back(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1, burst=20)
        limiter.sync(limit=4)
        assert (limiter.max_rate, limiter.burst) == (4, 4)
        limiter.sync(limit=15)
        assert (limiter.max_rate, limiter.burst) == (10, 15)
        limiter.sync(limit=1000)
        assert (limiter.max_rate, limiter.burst) == (10, 20)

    async def test_a_rate_that_is_set_is_not_lowered_any_more(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync(limit=4)
        limiter.max_rate = 8
        assert (limiter.max_rate, limiter.burst) == (8, 8)
        limiter.sync(limit=100)
        assert limiter.max_rate == 8

    async def test_a_limit_wakes_those_who_never_fit_any_more(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        await limiter.acquire(10)
        large = asyncio.create_task(limiter.acquire(5))
        await clock.settle()
        limiter.sync(limit=4, remaining=0)
        with pytest.raises(ValueError, match="exceeds max_rate=4"):
            await large

    async def test_nothing_stated_changes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.sync()
        limiter.sync(reset=5)
        limiter.sync(remaining=0, reset=0)
        assert limiter.has_capacity(10)


def bad() -> list[tuple[type[Exception], str, Any]]:
    rows: list[tuple[type[Exception], str, Any]] = []
    for name in ("limit", "remaining", "reset", "when"):
        rows += [(TypeError, name, value) for value in NO_NUMBERS]
        rows += [(ValueError, name, value) for value in (math.nan, math.inf, -math.inf, 10**400)]
        if name != "when":
            rows += [(ValueError, name, value) for value in (-1, -1e-9)]
    far: list[tuple[type[Exception], str, Any]] = [(ValueError, "when", 1.1e9), (ValueError, "reset", 1.1e9)]
    return [*rows, *far, (TypeError, "when", None), (ValueError, "limit", 0), (ValueError, "limit", 2e12)]


@pytest.mark.parametrize(("error", "name", "value"), bad())
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    AsyncLimiter: Any, clock: ManualClock, error: type[Exception], name: str, value: Any
) -> None:
    limiter = AsyncLimiter(10, 1)
    before = repr(limiter)
    call = partial(limiter.sync, **({"limit": 3, "remaining": 3, "reset": 3} | {name: value}))
    if name == "when":
        call = partial(limiter.pause_until, value)
    with pytest.raises(error, match=name) as raised:
        call()
    assert repr(value) in str(raised.value)
    assert repr(limiter) == before
    assert limiter.has_capacity(10)

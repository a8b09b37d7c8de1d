"""What callers see of AsyncLimiter: its methods, who is served first, and how it behaves as an object."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any
from unittest import mock
from weakref import ref

import pytest
from waiters import Waiters

import aiolimiter_fast
from aiolimiter_fast import AcquireTimeout, LimiterError, LimitReached
from aiolimiter_fast.testing import ManualClock


def taken(limiter: Any) -> float:
    """Permits in the bucket, as `repr` tells them."""
    return float(repr(limiter).split("level: ")[1].split(",")[0])


class TestAcquire:
    async def test_a_burst_passes_at_once_and_the_rest_at_the_rate(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        waiters = Waiters(AsyncLimiter(4, 1), clock)
        for name in "abcdefg":
            waiters.add(name)
        await clock.settle()
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0.25), ("f", 0.5), ("g", 0.75)]

    async def test_with_room_it_does_not_give_way_to_other_tasks(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 1)
        ran: list[None] = []
        asyncio.get_running_loop().call_soon(ran.append, None)
        await limiter.acquire()
        async with limiter:
            await limiter.acquire(1, timeout=1)
        assert not ran

    async def test_nothing_is_taken_before_it_is_awaited(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        awaitable = limiter.acquire()
        assert limiter.has_capacity()
        await awaitable
        assert not limiter.has_capacity()

    async def test_bad_amounts_are_refused_when_it_is_awaited(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        awaitable = AsyncLimiter(1, 1).acquire(-1)
        with pytest.raises(ValueError, match="amount must be 0 or more, got -1"):
            await awaitable

    async def test_it_is_a_coroutine_to_everybody(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(9, 1)
        awaitable = limiter.acquire()
        assert isinstance(awaitable, Coroutine)
        assert asyncio.iscoroutine(awaitable)
        assert inspect.isawaitable(awaitable)
        await asyncio.create_task(awaitable, name="acquiring")
        await asyncio.gather(limiter.acquire(), limiter.acquire())
        await asyncio.wait_for(limiter.acquire(), 1)
        await asyncio.ensure_future(limiter.acquire())
        assert taken(limiter) == 5

    async def test_a_task_that_waits_can_be_shown(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        task = asyncio.create_task(limiter.acquire())
        await clock.settle()
        assert "acquire" in repr(task)
        task.get_stack()
        await clock.run(1.0)
        assert task.done()

    if sys.version_info >= (3, 11):  # before, `inspect` asks the frame

        async def test_one_that_waits_is_seen_to_be_suspended(self, AsyncLimiter: Any, clock: ManualClock) -> None:
            limiter = AsyncLimiter(1, 1)
            await limiter.acquire()
            awaitable = limiter.acquire()
            assert not awaitable.cr_suspended
            task = asyncio.create_task(awaitable)
            await clock.settle()
            assert inspect.getcoroutinestate(awaitable) == inspect.CORO_SUSPENDED
            await clock.run(1.0)
            assert inspect.getcoroutinestate(awaitable) == inspect.CORO_CLOSED
            assert task.done()

    async def test_it_can_be_awaited_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        awaitable = limiter.acquire()
        await awaitable
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable
        assert taken(limiter) == 1

    async def test_a_second_task_cannot_await_it_meanwhile(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        awaitable = limiter.acquire()

        async def wait() -> None:
            await awaitable

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await clock.settle()
        with pytest.raises(RuntimeError, match="already"):
            await second
        assert not first.done()
        await clock.run(1.0)
        await first

    async def test_zero_is_free_even_where_there_is_no_room(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        for fair in (False, True):
            limiter = AsyncLimiter(2, 1, fair=fair)
            waiters = Waiters(limiter, clock)
            await limiter.acquire(2)
            waiters.add("one")
            await clock.settle()
            await limiter.acquire(0)
            assert limiter.try_acquire(0)
            assert limiter.has_capacity(0)
            assert limiter.wait_time(0) == 0.0
            assert taken(limiter) == 2
            await clock.run(1.0)

    async def test_fractions_are_permits_too(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "abcd":
            waiters.add(name, 0.5)
        await clock.settle()
        await clock.run(2.0)
        assert waiters.served == [("a", 0), ("b", 0), ("c", 0.5), ("d", 1.0)]

    async def test_a_slow_rate_and_a_fast_one(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        week = Waiters(AsyncLimiter(1, 7 * 86400), clock)
        nanosecond = AsyncLimiter(1e9, 1, burst=1)
        for name in "ab":
            week.add(name)
        await clock.settle()
        await nanosecond.acquire()
        assert nanosecond.wait_time() == 1e-9
        await clock.run(7 * 86400)
        assert week.served == [("a", 0), ("b", 7 * 86400)]

    async def test_a_refused_amount_leaves_the_queue_as_it_was(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        waiters = Waiters(limiter, clock)
        waiters.add("a", 2)
        waiters.add("b", 2)
        await clock.settle()
        before = repr(limiter)
        with pytest.raises(ValueError, match=r"acquire\(amount=3\) exceeds max_rate=2"):
            await limiter.acquire(3)
        assert repr(limiter) == before
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 1.0)]


class TestAsyncWith:
    async def test_entering_takes_one_permit_and_gives_none(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        async with limiter as entered:
            assert entered is None
            assert taken(limiter) == 1
        assert taken(limiter) == 1

    async def test_it_waits_for_room(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        times = []

        async def work() -> None:
            async with limiter:
                times.append(clock.time() - 1000)

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await clock.settle()
        await clock.run(2.0)
        await asyncio.gather(*tasks)
        assert times == [0, 1, 2]

    async def test_its_two_methods_can_be_called_by_hand(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        assert await limiter.__aenter__() is None
        assert not await limiter.__aexit__(exc_type=ValueError, exc=ValueError(), tb=None)
        assert not limiter.has_capacity()

    async def test_an_exception_inside_passes_and_the_permit_stays_taken(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        with pytest.raises(ZeroDivisionError):
            async with limiter:
                raise ZeroDivisionError
        assert not limiter.has_capacity()

    async def test_with_less_burst_than_one_permit_it_is_refused(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        with pytest.raises(ValueError, match=r"amount=1\) exceeds max_rate=0.5"):
            async with AsyncLimiter(0.5, 1):
                pass


class TestWithoutWaiting:
    async def test_has_capacity_takes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 1)
        assert [limiter.has_capacity(amount) for amount in (0, 1, 3, 3.5, 10**9)] == [True, True, True, False, False]
        assert taken(limiter) == 0
        with pytest.raises(ValueError, match="amount must be 0 or more"):
            limiter.has_capacity(-1)

    async def test_has_capacity_tells_of_the_bucket_whoever_waits(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        waiters.add("four", 4)
        await clock.settle()
        assert limiter.has_capacity(2)
        assert not limiter.has_capacity(3)
        assert not limiter.try_acquire(2)
        await clock.run(0.5)

    async def test_try_acquire_takes_what_is_there(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 3)
        assert [limiter.try_acquire(amount) for amount in (2, 2, 1, 1)] == [True, False, True, False]
        clock.advance(1.0)
        assert [limiter.try_acquire(), limiter.try_acquire()] == [True, False]

    def test_try_acquire_needs_no_loop(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(2, 1e6)
        assert [limiter.has_capacity(), limiter.try_acquire(2), limiter.try_acquire()] == [True, True, False]
        assert 0 < limiter.wait_time() <= 5e5

    async def test_wait_time_is_zero_with_room(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 1)
        assert limiter.wait_time(3) == 0.0
        assert taken(limiter) == 0

    async def test_waiting_that_long_is_enough_and_less_is_not(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        await limiter.acquire(4)
        for amount in (1, 2, 3, 4):
            assert limiter.wait_time(amount) == amount / 4
        wait = limiter.wait_time(3)
        clock.advance(wait - 1 / 1024)
        assert not limiter.has_capacity(3)
        clock.advance(1 / 1024)
        assert limiter.try_acquire(3)

    @pytest.mark.parametrize("fair", [False, True])
    async def test_wait_time_counts_those_who_go_first(self, AsyncLimiter: Any, clock: ManualClock, fair: bool) -> None:
        limiter = AsyncLimiter(8, 8, fair=fair)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        for name, amount in [("one", 1), ("two", 2), ("three", 3)]:
            waiters.add(name, amount)
        await clock.settle()
        wait = limiter.wait_time(2)
        assert wait == (8.0 if fair else 5.0)
        waiters.add("other two", 2)
        await clock.settle()
        await clock.run(8.0)
        assert dict(waiters.served)["other two"] == wait

    async def test_block_false_raises_at_once_and_takes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        await limiter.acquire(4, block=False)
        before = repr(limiter)
        with pytest.raises(LimitReached, match="no room for acquire") as caught:
            await limiter.acquire(3, block=False)
        assert caught.value.retry_after == 0.75
        assert repr(limiter) == before
        clock.advance(0.75)
        await limiter.acquire(3, block=False)

    async def test_block_false_does_not_pass_a_fair_queue(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        waiters.add("four", 4)
        await clock.settle()
        with pytest.raises(LimitReached) as caught:
            await limiter.acquire(1, block=False)
        assert caught.value.retry_after == 0.75
        assert not limiter.try_acquire()
        await clock.run(0.5)
        assert waiters.served == [("four", 0.5)]


class TestTimeout:
    async def test_a_wait_known_to_be_longer_is_refused_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        await limiter.acquire(4)
        before = repr(limiter)
        with pytest.raises(TimeoutError, match="would wait longer than its timeout") as caught:
            await limiter.acquire(2, timeout=0.25)
        assert isinstance(caught.value, AcquireTimeout)
        assert caught.value.retry_after == 0.5
        assert repr(limiter) == before

    async def test_a_wait_of_just_that_length_is_served(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        task = waiters.add("a", 2, timeout=0.5)
        await clock.settle()
        await clock.run(0.5)
        await task
        assert waiters.served == [("a", 0.5)]

    async def test_zero_needs_room_now(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire(timeout=0)
        with pytest.raises(AcquireTimeout) as caught:
            await limiter.acquire(timeout=0)
        assert caught.value.retry_after == 1.0

    async def test_one_who_is_overtaken_gives_up_when_it_is_over(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        late = waiters.add("four", 4, timeout=5)
        await clock.settle()
        await clock.run(1.0)
        assert limiter.try_acquire(1)
        await clock.run(1.0)
        assert limiter.try_acquire(1)
        await clock.run(2.75)
        assert not late.done()
        await clock.run(0.25)
        with pytest.raises(AcquireTimeout) as caught:
            await late
        assert caught.value.retry_after == 1.0
        assert not waiters.served
        assert "waiters: 0" in repr(limiter)
        assert taken(limiter) == 1

    async def test_those_behind_it_go_on(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        patient = waiters.add("four", 4, timeout=4)
        waiters.add("one")
        await clock.settle()
        limiter.time_period = 8
        await clock.run(4.0)
        with pytest.raises(AcquireTimeout):
            await patient
        assert waiters.served == [("one", 4.0)]

    async def test_one_who_was_served_is_not_troubled_later(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "ab":
            waiters.add(name, timeout=2)
        await clock.settle()
        await clock.run(8.0)
        assert waiters.served == [("a", 0), ("b", 1.0)]

    async def test_it_makes_no_sense_without_waiting(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        with pytest.raises(ValueError, match=r"timeout=1 makes no sense with block=False"):
            await AsyncLimiter(1, 1).acquire(block=False, timeout=1)

    async def test_the_longest_timeout_is_as_good_as_none(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        waiters.add("a", timeout=1e300)
        waiters.add("b", timeout=1e300)
        await clock.settle()
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 1.0)]

    @pytest.mark.parametrize("error", [AcquireTimeout, LimitReached])
    def test_the_errors_can_be_pickled(self, error: type[LimiterError]) -> None:
        again = pickle.loads(pickle.dumps(error("full", 1.5)))
        assert (type(again), str(again), again.retry_after) == (error, "full", 1.5)

    def test_it_is_the_timeout_of_asyncio_and_of_python(self) -> None:
        assert issubclass(AcquireTimeout, TimeoutError)
        assert issubclass(AcquireTimeout, asyncio.TimeoutError)


class TestOrder:
    async def test_smaller_amounts_first_then_first_come(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        for name, amount in [("two", 2), ("one", 1), ("three", 3), ("other one", 1), ("half", 0.5)]:
            waiters.add(name, amount)
        await clock.settle()
        await clock.run(2.0)
        assert waiters.names == ["half", "one", "other one", "two", "three"]

    async def test_a_newcomer_that_fits_passes(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        waiters.add("four", 4)
        await clock.settle()
        assert limiter.has_capacity(2)
        waiters.add("two", 2)
        await clock.settle()
        await clock.run(1.0)
        assert waiters.served == [("two", 0), ("four", 1.0)]

    @pytest.mark.parametrize("small", [1, 2, 4])
    async def test_overtaking_ends_after_a_burst_of_permits(
        self, AsyncLimiter: Any, clock: ManualClock, small: int
    ) -> None:
        limiter = AsyncLimiter(8, 8)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        waiters.add("large", 8)
        await clock.settle()
        for _ in range(20):  # always more small requests than the rate allows
            for _ in range(2):
                waiters.add("small", small)
            await clock.run(1.0)
        place = waiters.names.index("large")
        assert place * small == 8

    async def test_try_acquire_cannot_starve_a_waiter(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 8)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        waiters.add("large", 8)
        await clock.settle()
        passed = 0
        while not waiters.served:
            passed += limiter.try_acquire()
            await clock.run(0.5)
        assert passed == 8
        assert waiters.served == [("large", 16.0)]

    async def test_every_waiter_is_passed_by_a_burst_at_most(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 8)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        arrived: dict[str, int] = {}
        amounts: dict[str, int] = {}
        for number in range(200):
            name = str(number)
            arrived[name], amounts[name] = number, 1 + number * 5 % 8
            waiters.add(name, amounts[name])
            await clock.run(0.25)
        await clock.run(8.0 * 200)
        assert len(waiters.served) == 200
        for place, name in enumerate(waiters.names):
            overtakers = [other for other in waiters.names[:place] if arrived[other] > arrived[name]]
            assert sum(amounts[other] for other in overtakers) <= 8

    async def test_fair_is_first_come_first_served(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1, fair=True)
        assert limiter.fair is True
        waiters = Waiters(limiter, clock)
        amounts = [4, 8, 1, 2, 0.5, 8, 1, 1]
        for number, amount in enumerate(amounts):
            waiters.add(str(number), amount)
        await clock.settle()
        await clock.run(4.0)
        assert waiters.names == [str(number) for number in range(len(amounts))]
        assert waiters.served[-1][1] == (sum(amounts) - 8) / 8

    async def test_fair_lets_no_newcomer_pass(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        waiters.add("four", 4)
        await clock.settle()
        waiters.add("one", 1)
        await clock.settle()
        assert not waiters.served
        await clock.run(1.0)
        assert waiters.served == [("four", 0.5), ("one", 0.75)]

    async def test_a_waiter_whose_time_has_come_is_not_overtaken(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        waiters.add("four", 4)
        await clock.settle()
        clock.advance(1.0)  # and the loop is busy all that time
        assert not limiter.try_acquire()
        await clock.settle()
        assert waiters.served == [("four", 1.0)]


class TestBurst:
    async def test_one_spaces_permits_evenly(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        waiters = Waiters(AsyncLimiter(8, 1, burst=1), clock)
        for name in "abcde":
            waiters.add(name)
        await clock.settle()
        await clock.run(1.0)
        assert [time for _, time in waiters.served] == [0, 0.125, 0.25, 0.375, 0.5]

    async def test_after_a_rest_no_more_than_the_burst_passes(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=3)
        clock.advance(100)
        assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]
        clock.advance(100)
        assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]

    async def test_it_bounds_a_single_amount(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1, burst=3)
        await limiter.acquire(3)
        with pytest.raises(ValueError, match=r"amount=3.5\) exceeds burst=3"):
            await limiter.acquire(3.5)
        with pytest.raises(ValueError, match=r"amount=2\) exceeds burst=1"):
            await AsyncLimiter(100, 1, burst=1).acquire(2)

    def test_it_follows_max_rate_unless_given(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(5, 1)
        assert limiter.burst == 5
        limiter.max_rate = 7
        assert limiter.burst == 7
        limiter.burst = 2
        limiter.max_rate = 9
        assert limiter.burst == 2
        limiter.burst = None
        assert limiter.burst == 9


class TestChangesWhileInUse:
    async def test_a_higher_rate_brings_waiters_forward(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 8)
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.settle()
        await clock.run(4.0)
        limiter.max_rate = 2
        limiter.burst = 1
        await clock.settle()
        await clock.run(8.0)
        # Half a permit had leaked when the rate doubled; the other half then takes two seconds.
        assert waiters.served == [("a", 0), ("b", 6.0), ("c", 10.0)]

    async def test_a_larger_burst_serves_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 8)
        waiters = Waiters(limiter, clock)
        for name in "abcd":
            waiters.add(name)
        await clock.settle()
        limiter.burst = 3
        await clock.settle()
        assert waiters.names == ["a", "b", "c"]

    async def test_a_longer_period_puts_waiters_off(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "ab":
            waiters.add(name)
        await clock.settle()
        limiter.time_period = 4
        assert (limiter.max_rate, limiter.time_period) == (1, 4)
        await clock.run(8.0)
        assert waiters.served == [("a", 0), ("b", 4.0)]

    async def test_the_level_stays(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1)
        await limiter.acquire(6)
        limiter.max_rate = 4
        assert taken(limiter) == 6
        assert not limiter.has_capacity(1)
        assert limiter.wait_time(1) == 0.75
        limiter.max_rate = 16
        assert taken(limiter) == 6
        assert limiter.has_capacity(10)
        assert not limiter.has_capacity(10.5)

    async def test_one_who_no_longer_fits_is_told(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 8)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        large, small = waiters.add("six", 6), waiters.add("two", 2)
        await clock.settle()
        limiter.max_rate = 4
        await clock.settle()
        with pytest.raises(ValueError, match=r"acquire\(amount=6\) exceeds max_rate=4"):
            await large
        assert not small.done()
        await clock.run(12.0)
        assert waiters.served == [("two", 12.0)]

    async def test_a_bad_value_changes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        waiters.add("a")
        await clock.settle()
        before = repr(limiter)
        for name in ("max_rate", "time_period", "burst"):
            with pytest.raises(ValueError, match=name):
                setattr(limiter, name, 0)
        assert repr(limiter) == before
        await clock.run(0.125)
        assert waiters.served == [("a", 0.125)]

    async def test_fair_and_methods_cannot_be_set(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1)
        with pytest.raises(AttributeError):
            limiter.fair = True


class TestDecorator:
    async def test_each_call_takes_a_permit(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        times: list[float] = []

        @limiter  # type: ignore[untyped-decorator]
        async def double(number: int, *, plus: int = 0) -> int:
            """Twice the number."""
            times.append(clock.time() - 1000)
            return 2 * number + plus

        assert (double.__name__, double.__doc__) == ("double", "Twice the number.")
        assert inspect.iscoroutinefunction(double)
        tasks = [asyncio.create_task(double(number, plus=1)) for number in range(3)]
        await clock.settle()
        await clock.run(0.5)
        assert await asyncio.gather(*tasks) == [1, 3, 5]
        assert times == [0, 0, 0.5]

    async def test_amount_is_the_price_of_a_call(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 1)

        @limiter(amount=2)  # type: ignore[untyped-decorator]
        async def work() -> str:
            return "done"

        assert await work() == "done"
        assert taken(limiter) == 2

    async def test_a_call_that_fails_has_taken_its_permit(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)

        @limiter  # type: ignore[untyped-decorator]
        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert not limiter.has_capacity()

    async def test_methods_can_be_limited(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)

        class Client:
            @limiter  # type: ignore[untyped-decorator]
            async def get(self) -> Client:
                return self

        client = Client()
        assert await client.get() is client

    def test_only_async_functions_are_limited(self, AsyncLimiter: Any) -> None:
        for target in (len, lambda: None, 5, "text"):
            with pytest.raises(TypeError, match="decorates async functions"):
                AsyncLimiter(1)(target)


class TestAsAnObject:
    async def test_repr_tells_arguments_level_and_waiters(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(5, 10)
        address = f"{id(limiter):#x}"
        assert repr(limiter) == f"<AsyncLimiter(max_rate=5, time_period=10) at {address} [level: 0.000000, waiters: 0]>"
        await limiter.acquire(4.5)
        task = asyncio.create_task(limiter.acquire())
        await clock.settle()
        assert "[level: 4.500000, waiters: 1, waking in 1000000 µs]>" in repr(limiter)
        await clock.run(1.0)
        assert task.done()
        assert "waiters: 0]>" in repr(limiter)

    def test_repr_tells_burst_and_fairness_where_given(self, AsyncLimiter: Any) -> None:
        text = repr(AsyncLimiter(5, 10, burst=1.5, fair=True))
        assert text.startswith("<AsyncLimiter(max_rate=5, time_period=10, burst=1.5, fair=True) at ")

    @pytest.mark.parametrize("burst", [None, int("1000"), 1e3])
    def test_a_burst_that_equals_the_rate_is_not_told(self, AsyncLimiter: Any, burst: float | None) -> None:
        limiter = AsyncLimiter(1000, 60, burst=burst)
        assert repr(limiter).startswith("<AsyncLimiter(max_rate=1000, time_period=60) at ")
        with pytest.raises(ValueError, match=r"try_acquire\(amount=1001\) exceeds max_rate=1000"):
            limiter.try_acquire(1001)

    def test_arguments_have_aiolimiters_names_and_places(self, AsyncLimiter: Any) -> None:
        assert (AsyncLimiter(3).max_rate, AsyncLimiter(3).time_period) == (3, 60)
        limiter = AsyncLimiter(time_period=2.5, max_rate=7)
        assert (limiter.max_rate, limiter.time_period, limiter.fair) == (7, 2.5, False)
        with pytest.raises(TypeError):
            AsyncLimiter()
        with pytest.raises(TypeError):
            AsyncLimiter(1, 2, 3)

    def test_its_signatures_can_be_read(self, AsyncLimiter: Any) -> None:
        assert list(inspect.signature(AsyncLimiter).parameters) == ["max_rate", "time_period", "burst", "fair"]
        acquire = inspect.signature(AsyncLimiter(1).acquire)
        assert [(name, p.default) for name, p in acquire.parameters.items()] == [
            ("amount", 1),
            ("block", True),
            ("timeout", None),
        ]
        assert str(inspect.signature(AsyncLimiter(1).try_acquire)).startswith("(amount")

    def test_every_public_name_is_documented(self, AsyncLimiter: Any) -> None:
        for name in vars(AsyncLimiter):
            if not name.startswith("_"):
                assert getattr(AsyncLimiter, name).__doc__, name

    def test_it_is_what_aiolimiters_class_is(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1)
        assert isinstance(limiter, AbstractAsyncContextManager)
        assert AsyncLimiter[int].__origin__ is AsyncLimiter
        assert AsyncLimiter[int](3).max_rate == 3
        assert (AsyncLimiter.__name__, AsyncLimiter.__qualname__) == ("AsyncLimiter", "AsyncLimiter")
        assert AsyncLimiter.__module__ == "aiolimiter_fast"

    def test_it_is_compared_and_hashed_by_identity(self, AsyncLimiter: Any) -> None:
        one, other = AsyncLimiter(1), AsyncLimiter(1)
        assert len({one: 1, other: 2}) == 2

    def test_it_dies_with_its_last_reference(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1)
        limiter.try_acquire()
        watched = ref(limiter)
        del limiter
        gc.collect()
        assert watched() is None

    async def test_it_is_set_up_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "ab":
            waiters.add(name)
        await clock.settle()
        with pytest.raises(RuntimeError, match="while tasks wait"):
            limiter.__init__(5)
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 1.0)]


class TestSubclasses:
    async def test_an_overridden_acquire_serves_async_with_and_the_decorator(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        class Counting(AsyncLimiter):  # type: ignore[misc]
            calls = 0

            async def acquire(self, amount: float = 1, **options: Any) -> None:
                self.calls += 1
                await super().acquire(amount, **options)

        limiter = Counting(9, 1)

        @limiter(amount=2)  # type: ignore[untyped-decorator]
        async def work() -> None:
            pass

        async with limiter:
            pass
        await work()
        await limiter.acquire()
        assert limiter.calls == 3
        assert taken(limiter) == 4
        assert repr(limiter).startswith("<Counting(max_rate=9, ")

    async def test_it_may_have_arguments_and_attributes_of_its_own(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        class Named(AsyncLimiter):  # type: ignore[misc]
            def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.name = name

        limiter = Named("api", 1, time_period=1, burst=2)
        limiter.note = "seen"
        assert (limiter.name, limiter.note, limiter.burst) == ("api", "seen", 2)
        waiters = Waiters(limiter, clock)
        for name in "abc":
            waiters.add(name)
        await clock.settle()
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 0), ("c", 1.0)]

    async def test_forgetting_the_base_init_is_said_plainly(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        class Forgetful(AsyncLimiter):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

        limiter = Forgetful()
        for call in (limiter.try_acquire, limiter.has_capacity, limiter.wait_time, limiter.__repr__):
            with pytest.raises(AttributeError, match=r"Forgetful.__init__ did not call"):
                call()
        with pytest.raises(AttributeError, match=r"Forgetful.__init__ did not call"):
            await limiter.acquire()

    async def test_several_bases_work(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        class Mixin:
            def label(self) -> str:
                return "mixed"

        class Mixed(Mixin, AsyncLimiter):  # type: ignore[misc]
            pass

        limiter = Mixed(1, 1)
        async with limiter:
            assert limiter.label() == "mixed"
        assert not limiter.has_capacity()


class TestPatching:
    async def test_a_patched_acquire_serves_async_with(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        async with limiter:
            pass
        with mock.patch.object(AsyncLimiter, "acquire", new_callable=mock.AsyncMock) as acquire:
            async with limiter:
                pass
            await limiter.acquire(5)
        assert acquire.await_count == 2
        clock.advance(1.0)
        async with limiter:
            assert not limiter.has_capacity()

    async def test_it_is_obeyed_however_often_the_class_was_changed(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        for _ in range(1500):  # CPython 3.12 stops to number the versions of a class after a thousand
            with mock.patch.object(AsyncLimiter, "acquire", new=None):
                assert AsyncLimiter.acquire is None
            assert AsyncLimiter.acquire is not None
        async with limiter:
            pass
        with mock.patch.object(AsyncLimiter, "acquire", new_callable=mock.AsyncMock) as acquire:
            async with limiter:
                pass
        acquire.assert_awaited_once()

    async def test_a_mock_of_the_whole_class_can_be_used(self, AsyncLimiter: Any) -> None:
        limiter = mock.MagicMock(spec=AsyncLimiter)
        async with limiter:
            limiter.has_capacity()
        with pytest.raises(AttributeError):
            limiter.no_such_method()


class TestPickleAndCopy:
    @pytest.fixture(autouse=True)
    def _by_its_public_name(self, AsyncLimiter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pickle finds the class as aiolimiter_fast.AsyncLimiter, whichever engine that is at the time."""
        monkeypatch.setattr(aiolimiter_fast, "AsyncLimiter", AsyncLimiter)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    async def test_the_level_travels_and_leaks_on(self, AsyncLimiter: Any, clock: ManualClock, protocol: int) -> None:
        limiter = AsyncLimiter(8, 4, burst=6, fair=True)
        await limiter.acquire(5)
        clock.advance(1.0)
        again = pickle.loads(pickle.dumps(limiter, protocol))
        assert type(again) is AsyncLimiter
        assert (again.max_rate, again.time_period, again.burst, again.fair) == (8, 4, 6, True)
        clock.advance(86400.0)  # as if it had been stored; the time in between is no part of its life
        assert again.has_capacity(3)
        assert taken(again) == 3
        clock.advance(1.0)
        assert taken(again) == 1

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    async def test_a_copy_goes_its_own_way(self, AsyncLimiter: Any, clock: ManualClock, duplicate: Any) -> None:
        limiter = AsyncLimiter(4, 4)
        await limiter.acquire(3)
        other = duplicate(limiter)
        assert other is not limiter
        assert other.try_acquire()
        assert not other.try_acquire()
        assert limiter.try_acquire()
        assert not limiter.try_acquire()
        clock.advance(1.0)
        assert other.try_acquire()
        assert limiter.try_acquire()

    async def test_a_burst_that_follows_max_rate_does_so_afterwards(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        again = copy.copy(AsyncLimiter(4))
        again.max_rate = 6
        assert again.burst == 6

    async def test_attributes_of_a_subclass_are_copied(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        class Named(AsyncLimiter):  # type: ignore[misc]
            pass

        limiter = Named(4)
        limiter.tags = ["a"]
        shallow, deep = copy.copy(limiter), copy.deepcopy(limiter)
        assert type(shallow) is Named
        assert shallow.tags is limiter.tags
        assert deep.tags == ["a"]
        assert deep.tags is not limiter.tags

    async def test_with_tasks_in_line_it_is_refused(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "ab":
            waiters.add(name)
        await clock.settle()
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="while tasks wait"):
                attempt(limiter)
        await clock.run(1.0)
        assert waiters.served == [("a", 0), ("b", 1.0)]
        assert copy.copy(limiter).burst == 1

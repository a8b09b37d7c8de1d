"""Limiter in asyncio: who waits, in which order and until when, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
from callers import HOUR_MS, Callers, Clock, Milliseconds, limiter_on, logged, worst

from aiolimiter_fast.testing import ManualClock

SECOND_MS = 1000


def callers_at(package: ModuleType, clock: ManualClock, *rates: tuple[int, int], **options: Any) -> Callers:
    return Callers(limiter_on(package, Clock(clock.time_ns), *rates, **options), clock)


class TestTheLine:
    async def test_is_served_in_order_of_arrival_each_at_the_first_instant_with_room(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        for name, weight in [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 2)]:
            callers.add(name, weight)
        await clock.run(10)
        assert callers.served == [("a", 0), ("b", 1), ("c", 2), ("d", 2), ("e", 3)]

    async def test_is_served_to_the_nanosecond(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("a")
        callers.add("b")
        await clock.run(1)
        assert callers.names == ["a"]
        await clock.run(1e-9)
        assert callers.names == ["a", "b"]

    async def test_goes_by_every_rate(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS), (3, 10 * SECOND_MS))
        for name in "abcd":
            callers.add(name)
        await clock.run(20)
        assert callers.served == [("a", 0), ("b", 1), ("c", 2), ("d", 10)]

    @pytest.mark.parametrize("buffer_ms", [0, 50])
    async def test_waits_no_longer_for_any_buffer(
        self, package: ModuleType, clock: ManualClock, buffer_ms: int
    ) -> None:
        callers = callers_at(package, clock, (10, 100), buffer_ms=buffer_ms)
        for _ in range(1000):
            callers.add("x")
        await clock.run(5)
        assert len(callers.served) == 10 * 50

    async def test_of_one_bucket_does_not_delay_another(self, package: ModuleType, clock: ManualClock) -> None:
        full, free = (callers_at(package, clock, (1, HOUR_MS)) for _ in range(2))
        for name in "ab":
            full.add(name)
        free.add("c")
        await clock.settle()
        assert (full.names, free.names) == (["a"], ["c"])

    async def test_who_would_never_fit_is_told_at_once(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS), (3, 10 * SECOND_MS))
        callers.add("a", 2)
        callers.add("b")
        callers.add("too much", 3)
        await clock.settle()
        assert (callers.names, callers.refused) == (["a"], [("too much", 0)])

    async def test_ten_thousand_wait_some_leave_and_every_other_is_served_in_time(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        limit, seconds = 400, 20
        callers = callers_at(package, clock, (limit, SECOND_MS))
        tasks = [callers.add(str(number)) for number in range(10_000)]
        waiting = list(range(10_000))
        expected: list[tuple[str, float]] = []
        dice = random.Random(11)
        for second in range(seconds):
            await clock.run(0 if second == 0 else 0.5 + 2e-9)
            expected += [(str(number), float(second)) for number in waiting[:limit]]
            waiting = waiting[limit:]
            assert callers.served == expected
            assert callers.limiter.counters.waiting == len(waiting)
            await clock.run(0.5)
            for number in dice.sample(waiting, len(waiting) // 10):
                tasks[number].cancel()
                waiting.remove(number)
        for number in waiting:
            tasks[number].cancel()
        await asyncio.wait(tasks)
        *counts, waited = callers.limiter.counters
        assert (counts, round(waited)) == ([len(expected), 0, 0], sum(time for _, time in expected))

    async def test_more_than_one_slice_that_are_due_at_once_are_all_served(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1000, SECOND_MS))
        for number in range(3000):
            callers.add(str(number))
        await clock.run(2 + 4e-9)
        assert callers.served == [(str(number), number // 1000) for number in range(3000)]


class TestNotBlocking:
    async def test_is_decided_at_once_behind_a_line_of_any_length(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (2, HOUR_MS))
        for _ in range(10):
            callers.add("x", 2)
        await clock.settle()
        assert not await callers.limiter.try_acquire_async("y", blocking=False)
        assert not callers.limiter.try_acquire("y", blocking=False)
        assert not await callers.limiter.try_acquire_async("y", timeout=0)
        assert not callers.limiter.try_acquire("y", timeout=0)
        assert callers.limiter.counters == (1, 4, 9, 0)

    async def test_passes_the_first_by_one_limit_s_worth_at_most(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (4, SECOND_MS))
        limiter = callers.limiter
        for _ in range(4):
            assert limiter.try_acquire("early", blocking=False)
            await clock.run(0.25)
        callers.add("heavy", 4)
        passed = 0
        while not callers.served:
            passed += limiter.try_acquire("newcomer", blocking=False)
            await clock.run(0.125)
        assert passed == 4

    async def test_timeout_0_is_admitted_where_there_is_room(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = callers_at(package, clock, (2, HOUR_MS)).limiter
        assert await limiter.try_acquire_async("x", timeout=0)
        assert limiter.try_acquire("x", timeout=0)
        assert not await limiter.try_acquire_async("x", timeout=0)


class TestLeaving:
    async def test_a_cancelled_waiter_takes_nothing_and_makes_way(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (4, SECOND_MS))
        callers.add("a", 3)
        leaver = callers.add("heavy", 4)
        callers.add("b")
        await clock.settle()
        assert callers.names == ["a"]
        await clock.run(0.5)
        leaver.cancel()
        await clock.settle()
        assert callers.served == [("a", 0), ("b", 0.5)]
        assert callers.limiter.remaining() == [0]

    @pytest.mark.parametrize("leavers", [{0}, {1}, {0, 2}, {0, 1, 2}, {0, 3}, {4}])
    async def test_a_permit_survives_cancellation_between_grant_and_resumption(
        self, package: ModuleType, clock: ManualClock, leavers: set[int]
    ) -> None:
        callers = callers_at(package, clock, (3, SECOND_MS))
        callers.add("first", 3)
        await clock.settle()
        tasks = [callers.add(str(number)) for number in range(6)]
        await clock.settle()

        def cancel() -> None:  # in the turn of the loop that grants three permits, after the grant
            assert callers.limiter.try_acquire("probe", blocking=False) is False
            assert callers.limiter.counters.waiting == 3
            for number in leavers:
                tasks[number].cancel()

        asyncio.get_running_loop().call_at(clock.time() + 1 + 1e-6, cancel)
        clock.advance(1.5)
        await clock.settle()
        stay = [str(number) for number in range(6) if number not in leavers]
        assert callers.served == [("first", 0), *((name, 1.5) for name in stay[:3])]
        await clock.run(2)
        assert callers.names == ["first", *stay]

    async def test_a_permit_granted_long_ago_takes_no_later_one_along_when_it_is_given_back(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        limiter = callers.limiter
        callers.add("first")
        leaver = callers.add("leaver")
        await clock.settle()
        clock.advance(1.5)
        assert not limiter.try_acquire("probe", blocking=False)  # the leaver has the permit, and is not resumed yet
        assert limiter.counters.waiting == 0
        clock.advance(1.5)
        assert limiter.try_acquire("next", blocking=False)
        leaver.cancel()
        await clock.settle()
        assert not limiter.try_acquire("one too many", blocking=False)

    async def test_a_permit_granted_before_a_flush_takes_no_later_one_along(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        limiter = callers.limiter
        callers.add("first")
        leaver = callers.add("leaver")
        await clock.settle()
        clock.advance(1.5)
        assert not limiter.try_acquire("probe", blocking=False)
        limiter.bucket_factory.bucket.flush()
        assert limiter.try_acquire("next", blocking=False)  # at the very instant of the leaver's grant
        leaver.cancel()
        await clock.settle()
        assert not limiter.try_acquire("one too many", blocking=False)

    @pytest.mark.parametrize("wait", [1.0, 1.000_000_001, 1.1])
    async def test_wait_for_at_the_tick_of_the_grant_loses_no_permit(
        self, package: ModuleType, clock: ManualClock, wait: float
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("first")
        await clock.settle()
        patient = asyncio.create_task(asyncio.wait_for(callers.limiter.try_acquire_async("patient"), wait))
        callers.add("next")
        await clock.settle()
        clock.advance(1.5)
        await clock.settle()
        if patient.exception() is None:
            assert patient.result() is True
            assert callers.names == ["first"]
        else:
            assert isinstance(patient.exception(), asyncio.TimeoutError)
            assert callers.served == [("first", 0), ("next", 1.5)]
        assert callers.limiter.remaining() == [0]
        await clock.run(2)
        assert callers.names == ["first", "next"]

    if sys.version_info >= (3, 11):

        @pytest.mark.parametrize("wait", [1.0, 1.000_000_001, 1.1])
        async def test_asyncio_timeout_at_the_tick_of_the_grant_loses_no_permit(
            self, package: ModuleType, clock: ManualClock, wait: float
        ) -> None:
            callers = callers_at(package, clock, (1, SECOND_MS))
            callers.add("first")
            await clock.settle()

            async def patient() -> bool:
                async with asyncio.timeout(wait):
                    return bool(await callers.limiter.try_acquire_async("patient"))

            task = asyncio.create_task(patient())
            await clock.settle()
            callers.add("next")
            await clock.settle()
            clock.advance(1.5)
            await clock.settle()
            assert (task.exception() is None) is (callers.names == ["first"])
            assert callers.limiter.remaining() == [0]
            await clock.run(2)
            assert callers.names == ["first", "next"]

    async def test_a_timeout_that_ends_when_there_is_room_is_in_time(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("first")
        callers.add("a nanosecond short", timeout=1)
        callers.add("in time", timeout=1 + 1e-9)
        await clock.run(3)
        assert callers.served == [("first", 0), ("in time", 1)]
        assert callers.refused == [("a nanosecond short", 1)]

    async def test_who_is_turned_away_by_its_timeout_makes_way(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (4, SECOND_MS))
        callers.add("a", 3)
        callers.add("heavy", 4, timeout=0.25)
        callers.add("b")
        await clock.run(2)
        assert callers.served == [("a", 0), ("b", 0.25)]
        assert callers.refused == [("heavy", 0.25)]
        assert callers.limiter.counters == (2, 1, 0, 0.5)

    async def test_a_future_that_somebody_else_resolves_is_asked_for_again(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("first")
        tasks = [callers.add("a"), callers.add("b", timeout=1.5)]
        await clock.run(0.5)
        for task in tasks:
            task._fut_waiter.set_result(None)  # type: ignore[attr-defined]
        await clock.settle()
        assert callers.limiter.counters.waiting == 2
        await clock.run(2)
        assert callers.served == [("first", 0), ("a", 1)]
        assert callers.refused == [("b", 1.5)]

    @pytest.mark.parametrize("seed", range(20))
    async def test_random_calls_times_and_departures_never_break_the_bound_nor_strand_anybody(
        self, package: ModuleType, clock: ManualClock, seed: int
    ) -> None:
        dice = random.Random(seed)
        callers = callers_at(package, clock, (3, 100), (5, 300), (1000, HOUR_MS))
        tasks = []
        options: dict[str, Any]
        for number in range(60):
            options = dice.choice([{}, {}, {"timeout": dice.random()}, {"blocking": False}])
            tasks.append(callers.add(str(number), dice.randint(1, 3), **options))
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
            if dice.random() < 0.1:
                callers.limiter.rates = [
                    package.Rate(dice.randint(3, 4), 100), package.Rate(5, 300), package.Rate(1000, HOUR_MS)
                ]  # fmt: skip
            if dice.random() < 0.7:
                clock.advance(dice.choice([0, 0.01, 0.05, 0.1]))
            await (asyncio.sleep(0) if dice.random() < 0.5 else clock.settle())
        await clock.run(60)
        assert all(task.done() for task in tasks)
        entries = logged(callers.limiter)
        assert worst(entries, 100) <= 4
        assert worst(entries, 300) <= 5
        assert sum(weight for *_, weight in entries) >= len(callers.served)
        assert callers.limiter.counters.waiting == 0


class TestChanges:
    async def test_new_rates_serve_those_who_now_fit_and_plan_the_others_anew(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, HOUR_MS))
        for name in "abcde":
            callers.add(name)
        await clock.run(1)
        callers.limiter.rates = package.Rate(2, 2 * SECOND_MS)
        await clock.run(6)
        assert callers.served == [("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4)]

    async def test_new_rates_turn_away_at_once_who_can_never_fit(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (4, HOUR_MS))
        for name, weight in [("a", 4), ("b", 2), ("heavy", 3), ("c", 1), ("heavier", 4)]:
            callers.add(name, weight)
        await clock.run(1)
        callers.limiter.rates = package.Rate(2, 5 * SECOND_MS)
        await clock.settle()
        assert callers.refused == [("heavy", 1), ("heavier", 1)]
        await clock.run(20)
        assert callers.served == [("a", 0), ("b", 5), ("c", 10)]

    async def test_a_rate_changed_in_place_counts_from_the_next_call(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        rate = package.Rate(1, HOUR_MS)
        bucket = package.InMemoryBucket([rate])
        bucket._clock = Clock(clock.time_ns)
        callers = Callers(package.Limiter(bucket), clock)
        for name in "abc":
            callers.add(name)
        await clock.settle()
        rate.limit = 2
        assert not callers.limiter.try_acquire("probe", blocking=False)
        await clock.settle()
        assert callers.names == ["a", "b"]

    async def test_a_flush_serves_those_who_wait(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, HOUR_MS))
        for name in "abcde":
            callers.add(name)
        await clock.settle()
        callers.limiter.bucket_factory.bucket.flush()
        await clock.settle()
        assert callers.names == ["a", "b", "c", "d"]

    async def test_a_leak_that_makes_room_serves_those_who_wait(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, HOUR_MS))
        for name in "abc":
            callers.add(name)
        await clock.settle()
        assert callers.limiter.bucket_factory.bucket.leak(int(clock.time() * 1000) + 2 * HOUR_MS) == 2
        await clock.settle()
        assert callers.names == ["a", "b", "c"]


class TestCounters:
    async def test_tell_of_those_who_wait(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        limiter = callers.limiter
        tasks = [callers.add(name) for name in "abcdef"]
        callers.add("impatient", timeout=0.5)
        callers.add("hasty", blocking=False)
        await clock.settle()
        assert limiter.counters == (2, 1, 5, 0)
        await clock.run(0.5)
        assert limiter.counters == (2, 2, 4, 0.5)
        tasks[-1].cancel()
        await clock.settle()
        assert limiter.counters == (2, 2, 3, 0.5)
        await clock.run(0.5 + 1e-9)
        admitted, refused, waiting, waited = limiter.counters
        assert (admitted, refused, waiting, round(waited, 6)) == (4, 2, 1, 2.5)

    async def test_are_each_limiter_s_own_where_two_share_a_bucket(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        first = callers_at(package, clock, (1, SECOND_MS))
        second = Callers(package.Limiter(first.limiter.bucket_factory.bucket), clock)
        first.add("a")
        second.add("b")
        first.add("c")
        second.add("d", blocking=False)
        await clock.settle()
        assert (first.limiter.counters, second.limiter.counters) == ((1, 0, 1, 0), (0, 1, 1, 0))
        await clock.run(3)
        assert (first.names, second.names) == (["a", "c"], ["b"])

    async def test_count_waiters_at_buckets_of_other_kinds(self, package: ModuleType, clock: ManualClock) -> None:
        inner = package.InMemoryBucket([package.Rate(1, HOUR_MS)])
        inner._clock = Clock(clock.time_ns)
        callers = Callers(package.Limiter(package.BucketAsyncWrapper(inner)), clock)
        tasks = [callers.add(name) for name in "abc"]
        await clock.settle()
        assert callers.limiter.counters == (1, 0, 2, 0)
        for task in tasks[1:]:
            task.cancel()
        await clock.settle()
        assert callers.limiter.counters == (1, 0, 0, 0)


class TestCopies:
    async def test_have_the_log_and_nobody_who_waits(
        self, package: ModuleType, clock: ManualClock, imported: None
    ) -> None:
        limiter = package.Limiter(package.Rate(2, HOUR_MS))
        tasks = [asyncio.create_task(limiter.try_acquire_async(weight=2)) for _ in range(3)]
        await asyncio.sleep(0)
        assert limiter.counters.waiting == 2
        for another in (pickle.loads(pickle.dumps(limiter)), copy.deepcopy(limiter)):
            assert another.counters.waiting == 0
            assert another.remaining() == [0]
            assert another.wait_time() <= HOUR_MS / 1000 < limiter.wait_time()
            another.bucket_factory.bucket.flush()
            assert await another.try_acquire_async(weight=2)
        assert limiter.counters.waiting == 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class ByName:
    """A mixin: a bucket for each name."""

    def __init__(self, package: ModuleType, clock: Any, wraps: bool, *rates: tuple[int, int]) -> None:
        self.make: Callable[[], Any] = lambda: package.InMemoryBucket([package.Rate(*rate) for rate in rates])
        self.item = package.RateItem
        self.wrap = package.BucketAsyncWrapper if wraps else lambda bucket: bucket
        self.clock = clock
        self.found: dict[str, Any] = {}

    def wrap_item(self, name: str, weight: int = 1) -> Any:
        return self.item(name, self.clock.now(), weight)

    def get(self, item: Any) -> Any:
        if item.name not in self.found:
            bucket = self.make()
            bucket._clock = self.clock
            self.found[item.name] = self.wrap(bucket)
        return self.found[item.name]


def by_name(package: ModuleType, clock: Any, wraps: bool, *rates: tuple[int, int], **options: Any) -> Any:
    factory = type("Factory", (ByName, package.BucketFactory), {})(package, clock, wraps, *rates)
    return package.Limiter(factory, **options)


@pytest.mark.parametrize("wraps", [False, True])
class TestBucketsByName:
    async def test_a_full_one_delays_no_other(self, package: ModuleType, clock: ManualClock, wraps: bool) -> None:
        limiter = by_name(package, Milliseconds(clock.time_ns), wraps, (1, HOUR_MS))
        callers = Callers(limiter, clock)
        for _ in range(3):
            callers.add("full")
        callers.add("free")
        await clock.settle()
        assert callers.names == ["full", "free"]
        assert limiter.counters.waiting == 2
        callers.add("full", blocking=False)
        callers.add("full", timeout=0)
        await clock.settle()
        assert callers.refused == [("full", 0), ("full", 0)]
        assert limiter.counters.waiting == 2

    async def test_the_tasks_at_each_are_served_in_order_and_in_time(
        self, package: ModuleType, clock: ManualClock, wraps: bool
    ) -> None:
        limiter = by_name(package, Milliseconds(clock.time_ns), wraps, (2, SECOND_MS), buffer_ms=0)
        callers = Callers(limiter, clock)
        for _ in range(6):
            callers.add("a")
            callers.add("b")
        await clock.run(3)
        for name in "ab":
            times = [time for each, time in callers.served if each == name]
            # A millisecond's clock: a window is over a millisecond after its interval.
            assert times == [0, 0, 1.001, 1.001, 2.002, 2.002]

    async def test_who_leaves_makes_way(self, package: ModuleType, clock: ManualClock, wraps: bool) -> None:
        callers = Callers(by_name(package, Milliseconds(clock.time_ns), wraps, (2, SECOND_MS), buffer_ms=0), clock)
        callers.add("a", 2)
        leaver = callers.add("a")
        callers.add("a")
        await clock.run(0.5)
        leaver.cancel()
        await clock.run(1)
        assert callers.served == [("a", 0), ("a", 1.001)]

    async def test_who_leaves_as_its_turn_comes_does_so_quietly(
        self, package: ModuleType, clock: ManualClock, wraps: bool
    ) -> None:
        callers = Callers(by_name(package, Milliseconds(clock.time_ns), wraps, (1, SECOND_MS), buffer_ms=0), clock)
        callers.add("a")
        tasks = [callers.add("a") for _ in range(3)]
        await clock.run(0.5)
        for task in tasks[:2]:
            task.cancel()
        await clock.settle()
        assert [task.cancelled() for task in tasks] == [True, True, False]
        await clock.run(1)
        assert callers.served == [("a", 0), ("a", 1.001)]
        assert callers.limiter.counters.waiting == 0

    async def test_nothing_spins_without_a_buffer(self, package: ModuleType, clock: ManualClock, wraps: bool) -> None:
        limiter = by_name(package, Milliseconds(clock.time_ns), wraps, (1, HOUR_MS), buffer_ms=0)
        puts = 0
        found = limiter.bucket_factory.get(package.RateItem("a", 0))
        bucket = found.bucket if wraps else found
        put = bucket.put

        def counted(item: Any) -> Any:
            nonlocal puts
            puts += 1
            return put(item)

        bucket.put = counted
        callers = Callers(limiter, clock)
        for _ in range(3):
            callers.add("a")
        await clock.run(HOUR_MS / 1000 + 1, step=60)
        assert callers.names == ["a", "a"]
        assert puts <= 4 + 1


class TestClocks:
    async def test_the_line_sleeps_until_somebody_is_due(self, package: ModuleType, clock: ManualClock) -> None:
        reading = Clock(clock.time_ns)
        callers = Callers(limiter_on(package, reading, (1, HOUR_MS), buffer_ms=0), clock)
        for name in "abcde":
            callers.add(name)
        await clock.settle()
        before = reading.reads
        await clock.run(HOUR_MS / 1000, step=1)
        assert reading.reads == before
        await clock.run(1, step=0.25)
        assert callers.names == ["a", "b"]
        assert reading.reads - before <= 4

    async def test_one_that_lags_behind_the_loop_does_not_make_it_spin(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        frozen = clock.time_ns()
        reading = Clock(lambda: frozen)
        callers = Callers(limiter_on(package, reading, (1, 1)), clock)
        callers.add("a")
        callers.add("b")
        await clock.settle()
        frozen += 1_000_000  # a nanosecond short of the end of the window, for good
        before = reading.reads
        await clock.run(0.1)
        assert callers.names == ["a"]
        assert reading.reads - before <= 3 * 110
        frozen += 1
        await clock.run(0.001)
        assert callers.names == ["a", "b"]

    async def test_one_that_goes_back_admits_nothing_more_and_strands_nobody(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        offset = 0
        callers = Callers(limiter_on(package, Clock(lambda: clock.time_ns() + offset), (1, SECOND_MS)), clock)
        callers.add("a")
        callers.add("b")
        await clock.run(0.5)
        offset = -10 * 10**9
        assert not callers.limiter.try_acquire("probe", blocking=False)
        await clock.run(0.5)
        assert callers.names == ["a"]
        await clock.run(20)
        assert callers.names == ["a", "b"]

    async def test_milliseconds_are_enough(self, package: ModuleType, clock: ManualClock) -> None:
        callers = Callers(limiter_on(package, Milliseconds(clock.time_ns), (2, 100), buffer_ms=0), clock)
        for name in "abcde":
            callers.add(name)
        await clock.run(1)
        assert callers.served == [("a", 0), ("b", 0), ("c", 0.101), ("d", 0.101), ("e", 0.202)]

    async def test_a_loop_may_have_a_clock_of_its_own(self, package: ModuleType, clock: ManualClock) -> None:
        """The bucket goes by the true time and the loop by the manual one, which says when to look."""
        limiter = package.Limiter(package.Rate(1, 500))
        assert limiter.try_acquire()
        task = asyncio.create_task(limiter.try_acquire_async())
        await clock.settle()
        time.sleep(0.55)  # noqa: ASYNC251
        assert not task.done()
        await clock.run(1)
        assert task.result() is True


class OddLoop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return 2 * super().time() - 5000


LOOPS: list[Any] = [asyncio.new_event_loop, OddLoop]
if sys.platform != "win32" and sys.implementation.name == "cpython":
    try:
        import uvloop
    except ImportError:  # none for this interpreter
        pass
    else:
        LOOPS.append(uvloop.new_event_loop)


def run(coroutine: Any, new_loop: Any = asyncio.new_event_loop) -> Any:
    with closing(new_loop()) as loop:
        return loop.run_until_complete(coroutine)


@pytest.mark.parametrize("new_loop", LOOPS, ids=lambda make: make.__module__ + "." + make.__name__)
class TestLoops:
    def test_of_any_kind_deliver_to_a_crowd(self, package: ModuleType, new_loop: Any) -> None:
        limiter = package.Limiter([package.Rate(20, 10), package.Rate(1000, HOUR_MS)])

        async def crowd() -> Any:
            return await asyncio.gather(*(limiter.try_acquire_async(timeout=50) for _ in range(100)))

        assert all(run(crowd(), new_loop))
        assert worst(logged(limiter), 10) == 20

    def test_of_any_kind_turn_away_in_time(self, package: ModuleType, new_loop: Any) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR_MS))

        async def wait() -> Any:
            return await asyncio.gather(*(limiter.try_acquire_async(timeout=0.01) for _ in range(20)))

        assert sum(run(wait(), new_loop)) == 1
        assert limiter.counters[:3] == (1, 19, 0)

    def test_that_are_closed_take_their_waiters_along_and_no_permit(self, package: ModuleType, new_loop: Any) -> None:
        limiter = package.Limiter(package.Rate(2, 50))
        assert limiter.try_acquire(weight=2)

        async def leave() -> list[Any]:
            tasks = [
                asyncio.ensure_future(limiter.try_acquire_async(timeout=timeout)) for timeout in (-1, 9) for _ in "ab"
            ]
            await asyncio.sleep(0)
            return tasks

        loop = new_loop()
        loop.set_exception_handler(lambda loop, context: None)
        tasks = loop.run_until_complete(leave())
        assert limiter.counters.waiting == 4
        loop.close()
        watched = [ref(task) for task in tasks]
        del tasks
        gc.collect()
        assert not any(each() for each in watched)
        assert limiter.counters.waiting == 0
        assert run(limiter.try_acquire_async(weight=2), new_loop)

    def test_that_follow_one_another_share_the_limiter(self, package: ModuleType, new_loop: Any) -> None:
        limiter = package.Limiter([package.Rate(1, 5), package.Rate(100, HOUR_MS)])
        for _ in range(4):
            assert run(limiter.try_acquire_async(), new_loop)
        assert worst(logged(limiter), 5) == 1


if sys.version_info >= (3, 12):

    async def test_eager_tasks_are_decided_before_create_task_returns(package: ModuleType, clock: ManualClock) -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        callers = callers_at(package, clock, (1, SECOND_MS))
        assert callers.add("a").done()
        waiting = callers.add("b")
        hasty = callers.add("c", blocking=False)
        assert hasty.done()
        assert not waiting.done()
        bare = asyncio.create_task(callers.limiter.try_acquire_async("d", blocking=False))
        assert bare.result() is False
        await clock.run(2)
        assert callers.served == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("options", [{}, {"timeout": 1}, {"blocking": False}])
def test_a_call_that_is_not_awaited_takes_nothing_and_warns(package: ModuleType, options: dict[str, Any]) -> None:
    limiter = package.Limiter(package.Rate(1, HOUR_MS))
    for _ in range(2):  # the first one decides how the next are made
        with pytest.warns(RuntimeWarning, match=r"try_acquire_async|_acquire_async"):
            limiter.try_acquire_async(**options)
        assert limiter.remaining() == [1]
        assert limiter.try_acquire()
        limiter.bucket_factory.bucket.flush()


async def test_a_call_is_a_coroutine_that_cannot_be_awaited_twice(package: ModuleType) -> None:
    limiter = package.Limiter(package.Rate(5, HOUR_MS))
    assert limiter.try_acquire()
    call = limiter.try_acquire_async()
    assert asyncio.iscoroutine(call)
    assert await call
    with pytest.raises(RuntimeError, match="already awaited"):
        await call
    closed = limiter.try_acquire_async()
    closed.close()
    with pytest.raises(RuntimeError, match="already awaited"):
        await closed
    assert limiter.remaining() == [3]

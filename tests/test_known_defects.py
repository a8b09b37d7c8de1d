"""Defects that users met in aiolimiter and in limiters like it; here none of them happens.

The number is that of the report in the named project.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import sys
import threading
import time
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
from callers import HOUR_MS, Callers, Clock, Thread, limiter_on
from waiters import Waiters

from aiolimiter_fast import LimitReached
from aiolimiter_fast.testing import ManualClock

HOUR = 3600.0


class TestAiolimiter:
    async def test_a_large_amount_is_served_though_small_ones_keep_coming(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(8, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        waiters.add("large", 8)
        for _ in range(64):
            waiters.add("small")
            waiters.add("small")
            await clock.run(1 / 8)
        assert waiters.names.index("large") == 8

    async def test_with_fair_it_is_served_before_all_of_them(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        waiters.add("large", 8)
        for _ in range(16):
            waiters.add("small")
            await clock.run(1 / 8)
        assert waiters.served[0] == ("large", 1.0)

    async def test_20_in_line_are_not_passed_by_hundreds(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(8)
        for _ in range(20):
            waiters.add("old", 4)
        await clock.settle()
        passed = 0
        while waiters.names.count("old") < 20:
            passed += limiter.try_acquire()
            await clock.run(1 / 16)
        # Each of them by a burst of 8 at most, counted over all 20 in line.
        assert passed <= 20 * 8
        assert waiters.served[0][1] <= (8 + 4) / 8

    async def test_a_busy_loop_lets_no_newcomer_pass_those_who_are_due(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(2, 2)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        for name in ("first", "second"):
            waiters.add(name)
        await clock.settle()
        clock.advance(2.0)
        waiters.add("newcomer")
        await clock.run(4.0)
        assert waiters.served == [("first", 2.0), ("second", 2.0), ("newcomer", 3.0)]

    def test_two_live_loops_in_two_threads_share_it(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(5, 0.01)
        finished = threading.Barrier(2)
        errors: list[BaseException] = []

        async def work() -> None:
            await asyncio.gather(*(limiter.acquire() for _ in range(20)))

        def run() -> None:
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(work())
                finished.wait(60)
            except BaseException as error:
                errors.append(error)
            finally:
                loop.close()

        threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not errors

    async def test_cancelled_waiters_do_not_stay_in_the_heap(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, HOUR)
        await limiter.acquire(2)
        first = asyncio.create_task(limiter.acquire(1))
        tasks = [asyncio.create_task(limiter.acquire(2)) for _ in range(1000)]
        await clock.settle()
        futures = [ref(task._fut_waiter) for task in tasks]  # type: ignore[attr-defined]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del task, tasks
        gc.collect()
        assert sum(future() is not None for future in futures) < 100
        first.cancel()

    @pytest.mark.parametrize("rate", [1_000, 5_000, 10_000])
    async def test_waits_are_not_rounded_to_a_millisecond(
        self, AsyncLimiter: Any, clock: ManualClock, rate: int
    ) -> None:
        waiters = Waiters(AsyncLimiter(1, 1 / rate), clock)
        for number in range(rate // 10 + 1):
            waiters.add(str(number))
        await clock.run(0.1 + 1e-6)
        assert len(waiters.served) == rate // 10 + 1
        assert [round(time * rate, 1) for _, time in waiters.served] == list(range(rate // 10 + 1))

    def test_rates_and_periods_that_make_no_sense_are_refused(self, AsyncLimiter: Any) -> None:
        for max_rate, time_period in [(-1, 1), (0, 1), (float("nan"), 1), (1, -1), (1, 0), (1, float("nan"))]:
            with pytest.raises(ValueError, match=r"max_rate|time_period"):
                AsyncLimiter(max_rate, time_period)

    async def test_90_a_burst_of_one_never_admits_twice_the_rate(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        waiters = Waiters(AsyncLimiter(8, 1, burst=1), clock)
        for number in range(30):
            waiters.add(str(number))
        await clock.run(1.0)
        assert len(waiters.served) == 8 + 1

    async def test_217_a_bucket_that_is_partly_empty_means_no_longer_wait(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(8, 8)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        waiters.add("six", 6)
        await clock.run(8.0)
        assert waiters.served == [("six", 2.0)]


class TestOtherLimiters:
    @pytest.mark.parametrize("fair", [False, True])
    async def test_anyio_947_952_netflix_179_a_permit_survives_a_cancellation_in_the_cycle_that_grants_it(
        self, AsyncLimiter: Any, clock: ManualClock, fair: bool
    ) -> None:
        limiter = AsyncLimiter(1, 1, fair=fair)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()
        leaver = waiters.add("leaver")
        waiters.add("next")
        await clock.settle()
        asyncio.get_running_loop().call_at(clock.time() + 1.0 + 1e-6, leaver.cancel)
        clock.advance(1.5)
        await clock.settle()
        assert leaver.cancelled()
        assert waiters.served == [("next", 1.5)]

    async def test_asynciolimiter_17_nobody_hangs_after_a_pause(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        for name in "abc":
            for again in "12":
                waiters.add(name + again)
            await clock.run(100.0)
        assert waiters.served == [("a1", 0), ("a2", 1), ("b1", 100), ("b2", 101), ("c1", 200), ("c2", 201)]

    async def test_asynciolimiter_14_ratelimit_28_a_timer_that_is_early_grants_nothing_early(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        loop: Any = asyncio.get_running_loop()
        waiters = Waiters(AsyncLimiter(1, 1), clock)
        early = 0.25
        with pytest.MonkeyPatch.context() as patch:
            call_at = loop.call_at
            patch.setattr(loop, "call_at", lambda when, *rest, **more: call_at(when - early, *rest, **more))
            for name in "ab":
                waiters.add(name)
            for _ in range(3):
                await asyncio.sleep(0)
            clock.advance(0.875)
            for _ in range(20):
                await asyncio.sleep(0)
            assert waiters.names == ["a"]
            clock.advance(0.125)
            await clock.settle()
        assert waiters.served == [("a", 0), ("b", 1.0)]

    async def test_asynciolimiter_50000_a_second_are_delivered(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        waiters = Waiters(AsyncLimiter(50_000, 1, burst=1), clock)
        for number in range(501):
            waiters.add(str(number))
        await clock.run(0.01 + 1e-6)
        assert len(waiters.served) == 501

    async def test_golang_56924_69419_a_late_cancellation_restores_no_more_than_is_left(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(4, 4)
        await limiter.acquire(4)
        leaver = Waiters(limiter, clock).add("leaver", 2)
        await clock.settle()

        def cancel_late() -> None:
            clock.advance(4.0)
            assert limiter.try_acquire(4)
            leaver.cancel()

        asyncio.get_running_loop().call_at(clock.time() + 2.0 + 1e-6, cancel_late)
        clock.advance(2.5)
        await clock.settle()
        assert leaver.cancelled()
        assert limiter.wait_time() == 1.0

    async def test_golang_45245_43858_rounding_never_admits_more(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(3, 7, burst=1)
        admitted = 0
        for _ in range(70_000):
            admitted += limiter.try_acquire()
            clock.advance(0.001)
        assert 29 <= admitted <= 30 + 1

    async def test_golang_39984_47221_68541_a_rate_of_zero_is_refused(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1)
        with pytest.raises(ValueError, match="max_rate must be positive"):
            limiter.max_rate = 0
        assert limiter.max_rate == 1

    async def test_cadence_6030_a_clock_that_goes_back_admits_nothing_more(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(4, 4)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        clock.advance(-100.0)
        assert not limiter.try_acquire()
        assert limiter.wait_time() == 1.0
        waiters.add("a")
        await clock.settle()
        await clock.run(1.0)
        assert waiters.names == ["a"]

    async def test_ccxt_9880_a_task_that_fails_does_not_stop_the_queue(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        served: list[float] = []

        async def work(fails: bool) -> None:
            async with limiter:
                served.append(clock.time() - 1000)
                if fails:
                    raise ZeroDivisionError

        tasks = [asyncio.create_task(work(bool(number % 2))) for number in range(6)]
        await clock.settle()
        await clock.run(6.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [round(time, 6) for time in served] == [0, 1, 2, 3, 4, 5]

    async def test_ccxt_25556_idle_time_earns_the_whole_burst(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(8, 1)
        await limiter.acquire(8)
        clock.advance(0.5)
        assert sum(limiter.try_acquire() for _ in range(10)) == 4
        clock.advance(HOUR)
        assert sum(limiter.try_acquire() for _ in range(10)) == 8

    def test_ccxt_26968_threads_take_no_permit_twice(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(100, 1e9)
        taken: list[bool] = []
        threads = [
            threading.Thread(target=lambda: taken.extend([limiter.try_acquire() for _ in range(50)])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), sum(taken)) == (400, 100)

    async def test_datafair_486_waits_that_were_given_up_take_nothing(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(4, 4)
        await limiter.acquire(4)
        for _ in range(100):
            with contextlib.suppress(asyncio.TimeoutError):
                await limiter.acquire(timeout=0)
            with contextlib.suppress(LimitReached):
                await limiter.acquire(block=False)
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert "waiters: 0]" in repr(limiter)
        clock.advance(4.0)
        await limiter.acquire(4, block=False)


class TestPyrateLimiter:
    """What was reported of pyrate-limiter 4.5 and before, or measured, as far as it concerns buckets in memory.

    299, a fork while a thread holds a lock, is isolated/limiter_forks.py. Redis, PostgreSQL, SQLite and what several
    processes share (221) have tests of their own.
    """

    @pytest.mark.parametrize("wraps", [False, True])
    async def test_301_a_full_key_does_not_delay_a_free_one_nor_a_call_that_does_not_block(
        self, package: ModuleType, clock: ManualClock, wraps: bool
    ) -> None:
        buckets = {}
        for name in ("full", "free"):
            bucket = package.InMemoryBucket([package.Rate(1, HOUR_MS)])
            bucket._clock = Clock(clock.time_ns)
            buckets[name] = package.BucketAsyncWrapper(bucket) if wraps else bucket

        class Factory(package.BucketFactory):  # type: ignore[misc, name-defined]
            def wrap_item(self, name: str, weight: int = 1) -> Any:
                return package.RateItem(name, clock.time_ns() // 1_000_000, weight)

            def get(self, item: Any) -> Any:
                return buckets[item.name]

        callers = Callers(package.Limiter(Factory()), clock)
        for name in ("full", "full", "full", "free"):
            callers.add(name)
        callers.add("full", blocking=False)
        await clock.settle()
        assert callers.names == ["full", "free"]
        assert callers.refused == [("full", 0)]

    def test_an_async_wrapper_needs_no_running_loop(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.BucketAsyncWrapper(package.InMemoryBucket([package.Rate(1, HOUR_MS)])))
        for expected in (True, False):
            assert asyncio.run(limiter.try_acquire_async(blocking=False)) is expected

    def test_136_157_fifty_limiters_start_no_thread(self, package: ModuleType) -> None:
        before = threading.enumerate()
        limiters = [package.Limiter(package.Rate(1, HOUR_MS)) for _ in range(50)]
        assert all(limiter.try_acquire() for limiter in limiters)
        assert threading.enumerate() == before

    async def test_the_default_buffer_costs_nothing_of_the_rate(self, package: ModuleType, clock: ManualClock) -> None:
        callers = Callers(limiter_on(package, Clock(clock.time_ns), (10, 100)), clock)

        async def work() -> None:
            while True:
                await callers._run("x", 1, {})

        workers = [asyncio.create_task(work()) for _ in range(20)]
        await clock.run(10)
        for worker in workers:
            worker.cancel()
        assert len(callers.served) == 10 * 100

    def test_289_without_a_buffer_nothing_spins(self, package: ModuleType) -> None:
        clock = Clock(time.monotonic_ns)
        limiter = limiter_on(package, clock, (1, 20), buffer_ms=0)
        assert all(limiter.try_acquire() for _ in range(4))
        assert clock.reads <= 4 * 6

    async def test_289_timeout_0_is_admitted_in_asyncio_where_there_is_room(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(2, HOUR_MS))
        assert [await limiter.try_acquire_async(timeout=0) for _ in range(3)] == [True, True, False]

    def test_278_no_wait_is_negative(self, package: ModuleType) -> None:
        now = 10**12
        limiter = limiter_on(package, Clock(lambda: now), (2, 1000))
        bucket = limiter.bucket_factory.bucket
        assert limiter.try_acquire(weight=2)
        for _ in range(30):
            now += 100_000_000
            assert limiter.wait_time() >= 0
            item = package.RateItem("x", bucket.now())
            assert bucket.put(item) or bucket.waiting(item) >= 0

    def test_278_a_bucket_that_tells_a_negative_wait_is_asked_again(self, package: ModuleType) -> None:
        class Bucket(package.InMemoryBucket):  # type: ignore[misc, name-defined]
            def waiting(self, item: Any) -> int:
                return -5

        limiter = package.Limiter(Bucket([package.Rate(1, 5)]), buffer_ms=0)
        assert all(limiter.try_acquire() for _ in range(3))

    def test_185_191_contending_threads_all_get_their_permits(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(8, 5))
        threads = [Thread(lambda: [limiter.try_acquire() for _ in range(8)]) for _ in range(8)]
        assert all(all(thread.result()) for thread in threads)

    def test_108_32_threads_do_not_deadlock(self, package: ModuleType) -> None:
        limiter = package.Limiter([package.Rate(4, 2), package.Rate(1000, HOUR_MS)])
        threads = [Thread(limiter.try_acquire, str(number), 1 + number % 4) for number in range(32)]
        assert all(thread.result() for thread in threads)

    def test_300_302_leaking_beside_putting_loses_no_count_and_raises_nothing(self, package: ModuleType) -> None:
        now = 10**6
        bucket = package.InMemoryBucket([package.Rate(10, 10), package.Rate(100_000, 10**6)])
        finished = threading.Event()
        leaked = 0

        def leak() -> None:
            nonlocal leaked
            while not finished.is_set():
                leaked += bucket.leak(now)
                bucket.peek(-1)
                bucket.peek(0)

        leaking = Thread(leak)
        put = 0
        for _ in range(300):
            for _ in range(20):
                put += bucket.put(package.RateItem("x", now))
            now += 11 if put % 7 else 10**6
        finished.set()
        leaking.result()
        assert put == 3000
        assert leaked + bucket.count() == put

    def test_183_leaking_can_start_and_end_any_number_of_times(self, package: ModuleType) -> None:
        class Bucket(package.InMemoryBucket):  # type: ignore[misc, name-defined]
            needs_leak = True

        bucket = Bucket([package.Rate(1, HOUR_MS)])
        limiter = package.Limiter(bucket)
        limiter.bucket_factory.leak_interval = 1
        for _ in range(20):
            assert limiter.dispose(bucket)
            limiter.bucket_factory.schedule_leak(bucket)
        assert limiter.buckets() == [bucket]
        limiter.close()

    def test_262_a_limiter_can_be_pickled(self, package: ModuleType, imported: None) -> None:
        limiter = package.Limiter(package.Rate(3, HOUR_MS))
        assert limiter.try_acquire(weight=2)
        another = pickle.loads(pickle.dumps(limiter))
        assert another.remaining() == [1]
        assert another.try_acquire(blocking=False)
        assert not another.try_acquire(blocking=False)
        assert limiter.remaining() == [1]

    def test_239_rates_may_come_in_any_order(self, package: ModuleType) -> None:
        rates = [package.Rate(3, HOUR_MS), package.Rate(1, 1000), package.Rate(2, 60_000)]
        limiter = package.Limiter(rates)
        assert [rate.limit for rate in limiter.rates] == [1, 2, 3]
        assert limiter.try_acquire(blocking=False)
        assert not limiter.try_acquire(blocking=False)

    def test_134_a_permit_costs_the_same_in_a_window_of_any_size(self, package: ModuleType) -> None:
        """Counted in lines of the twin's source, which the extension mirrors."""

        def lines(limit: int) -> int:
            bucket = package.InMemoryBucket([package.Rate(limit, 1000)])
            for _ in range(limit):
                assert bucket.put(package.RateItem("x", 0))
            count = 0

            def trace(frame: Any, event: str, argument: Any) -> Any:
                nonlocal count
                count += event == "line"
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                for _ in range(20):
                    bucket.put(package.RateItem("x", 0))
            finally:
                sys.settrace(before)
            return count

        assert lines(10_000) <= 2 * lines(10)

    def test_45_a_frozen_clock_makes_no_wait_longer(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(1, 5))
        assert limiter.try_acquire()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("time", "time_ns"):
                patch.setattr(time, name, lambda: 1)
            assert limiter.wait_time() <= 0.006
            assert limiter.try_acquire()
            for name in ("monotonic", "monotonic_ns"):
                patch.setattr(time, name, lambda: 1)
            assert limiter.wait_time() <= 0.006
            assert limiter.try_acquire()

    def test_32_limiters_share_nothing(self, package: ModuleType) -> None:
        rate = package.Rate(1, HOUR_MS)
        first, second = package.Limiter(rate), package.Limiter(rate)
        assert first.try_acquire("x", blocking=False)
        assert second.try_acquire("x", blocking=False)
        assert not first.try_acquire("x", blocking=False)

    async def test_a_weight_that_can_never_fit_is_refused_at_once_even_when_blocking(self, package: ModuleType) -> None:
        limiter = package.Limiter([package.Rate(2, 1000), package.Rate(5, HOUR_MS)])
        assert limiter.try_acquire(weight=3) is False
        assert await limiter.try_acquire_async(weight=3) is False
        assert limiter.remaining() == [2, 5]

    async def test_88_percent_of_eight_threads_calls_are_not_refused_with_the_budget_untouched(
        self, package: ModuleType
    ) -> None:
        limiter = package.Limiter(package.Rate(4000, HOUR_MS))
        threads = [Thread(lambda: sum(limiter.try_acquire(blocking=False) for _ in range(500))) for _ in range(8)]
        assert sum(thread.result() for thread in threads) == 4000

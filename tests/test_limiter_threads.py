"""Limiter in threads, alone and beside event loops: one line, one bound, no false denial."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from callers import HOUR_MS, Clock, Milliseconds, Thread, limiter_on, logged, until, worst

if TYPE_CHECKING:
    from typing_extensions import Self


@contextmanager
def threads_take_short_turns() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def keeping(package: ModuleType, limit: int, interval: int) -> Any:
    """A limiter whose log holds all that it admits while a test runs."""
    return package.Limiter([package.Rate(limit, interval), package.Rate(10_000, HOUR_MS)])


def waiting(limiter: Any, count: int) -> None:
    until(lambda: limiter.counters.waiting == count)


class Loop:
    """An event loop that runs in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(self.loop.run_forever)

    def start(self, coroutine: Any) -> Any:
        """Start a task, and return its concurrent future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.result()
        self.loop.close()


class TestTheLine:
    def test_is_one_for_threads_and_tasks_in_order_of_arrival(self, package: ModuleType) -> None:
        limiter = keeping(package, 1, 10)
        limiter.rates = [package.Rate(1, 200), *limiter.rates[1:]]
        assert limiter.try_acquire("0")
        with Loop() as one, Loop() as other:
            kinds: list[Any] = [Thread, one, Thread, other, one, Thread, other, Thread]
            calls: list[Any] = []
            for number, kind in enumerate(kinds, 1):
                if kind is Thread:
                    calls.append(Thread(limiter.try_acquire, str(number)))
                else:
                    calls.append(kind.start(limiter.try_acquire_async(str(number))))
                until(lambda: len(logged(limiter)) + limiter.counters.waiting > number)  # noqa: B023
            limiter.rates = [package.Rate(1, 10), *limiter.rates[1:]]
            assert all(call.result() for call in calls)
        entries = logged(limiter)
        assert [name for name, *_ in entries] == [str(number) for number in range(9)]
        assert worst(entries, 10) == 1

    def test_lets_32_threads_contend_and_serves_them_all(self, package: ModuleType) -> None:
        limiter = keeping(package, 16, 10)

        def work() -> list[bool]:
            return [limiter.try_acquire(weight=1 + number % 3) for number in range(6)]

        with threads_take_short_turns():
            assert all(all(thread.result()) for thread in [Thread(work) for _ in range(32)])
        assert worst(logged(limiter), 10) <= 16
        assert limiter.counters[:3] == (32 * 6, 0, 0)

    def test_of_one_bucket_leaves_another_alone(self, package: ModuleType) -> None:
        full, free = (package.Limiter(package.Rate(1, HOUR_MS)) for _ in range(2))
        assert full.try_acquire()
        thread = Thread(full.try_acquire)
        waiting(full, 1)
        assert free.try_acquire()
        assert not full.try_acquire(blocking=False)
        assert full.remaining() == [0]
        full.bucket_factory.bucket.flush()
        assert thread.result()

    def test_goes_on_where_a_task_leaves_it_before_a_thread(self, package: ModuleType) -> None:
        limiter = package.Limiter([package.Rate(2, 50), package.Rate(4, HOUR_MS)])
        assert limiter.try_acquire(weight=2)
        with Loop() as loop:
            task = loop.start(limiter.try_acquire_async(weight=2))
            waiting(limiter, 1)
            thread = Thread(limiter.try_acquire)  # after the task, in an hour
            waiting(limiter, 2)
            task.cancel()
            assert thread.result()

    def test_goes_on_where_a_thread_gives_up_before_a_task_and_a_thread(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(3, HOUR_MS))
        assert limiter.try_acquire()
        impatient = Thread(limiter.try_acquire, weight=3, timeout=0.05)
        waiting(limiter, 1)
        with Loop() as loop:
            task = loop.start(limiter.try_acquire_async())
            thread = Thread(limiter.try_acquire)
            assert impatient.result() is False
            assert task.result(60)
            assert thread.result()
        assert limiter.counters[:3] == (3, 1, 0)

    def test_is_served_by_others_where_a_loop_is_busy(self, package: ModuleType) -> None:
        limiter = keeping(package, 1, 20)
        assert limiter.try_acquire("0")
        with Loop() as loop:
            task = loop.start(limiter.try_acquire_async("1"))
            waiting(limiter, 1)
            release = threading.Event()
            loop.loop.call_soon_threadsafe(release.wait)
            assert limiter.try_acquire("2")  # whose time comes after that of the task
            assert not task.done()
            release.set()
            assert task.result(60)
        assert [name for name, *_ in logged(limiter)] == ["0", "1", "2"]


class TestTimeouts:
    def test_0_is_one_try(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR_MS))
        assert limiter.try_acquire(timeout=0)
        assert limiter.try_acquire(timeout=0) is False
        assert limiter.counters == (1, 1, 0, 0)

    def test_end_the_wait_and_leave_nobody_in_the_line(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR_MS))
        assert limiter.try_acquire()
        threads = [Thread(limiter.try_acquire, timeout=0.01 * number) for number in range(8)]
        assert not any(thread.result() for thread in threads)
        assert limiter.counters[:3] == (1, 8, 0)

    def test_end_the_wait_by_a_clock_that_stands_still(self, package: ModuleType) -> None:
        limiter = limiter_on(package, Clock(lambda: 10**12), (1, HOUR_MS))
        assert limiter.try_acquire()
        assert limiter.try_acquire(timeout=0.01) is False

    def test_longer_than_the_wait_make_no_difference(self, package: ModuleType) -> None:
        limiter = keeping(package, 1, 5)
        assert all(limiter.try_acquire(timeout=3600) for _ in range(4))
        assert worst(logged(limiter), 5) == 1


class TestNoFalseDenial:
    def test_eight_threads_and_a_million_calls_get_exactly_the_limit_in_each_window(self, package: ModuleType) -> None:
        calls = 1_000_000 if package.__name__ == "aiolimiter_fast" and is_compiled(package) else 80_000
        now, windows, limit = 10**12, 20, 500
        limiter = limiter_on(package, Clock(lambda: now), (limit, 1000), (100_000, HOUR_MS))
        admitted = [[0] * windows for _ in range(8)]

        def step() -> None:
            nonlocal now
            now += 1_000_000_001

        turn = threading.Barrier(8, step)

        def work(mine: list[int]) -> None:
            for window in range(windows):
                turn.wait(60)
                for _ in range(calls // windows // 8):
                    mine[window] += limiter.try_acquire("x", blocking=False)
                turn.wait(60)

        with threads_take_short_turns():
            for thread in [Thread(work, mine) for mine in admitted]:
                thread.result()
        assert [sum(each) for each in zip(*admitted, strict=True)] == [limit] * windows
        assert limiter.counters == (limit * windows, calls - limit * windows, 0, 0)

    def test_stacked_rates_and_weights_are_filled_to_the_last_unit(self, package: ModuleType) -> None:
        now = 10**12
        limiter = limiter_on(package, Clock(lambda: now), (600, 1000), (1500, 10_000))
        for expected in (600, 600, 300, 0):
            now += 1_000_000_001
            threads = [
                Thread(lambda: sum(limiter.try_acquire("x", 3, blocking=False) for _ in range(100))) for _ in range(8)
            ]
            assert 3 * sum(thread.result() for thread in threads) == expected

    def test_nobody_is_turned_away_while_another_reads_changes_or_waits(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(100_000, HOUR_MS))
        finished = threading.Event()

        def disturb() -> None:
            while not finished.is_set():
                limiter.remaining()
                limiter.wait_time(weight=50_000)
                limiter.rates = package.Rate(100_000, HOUR_MS)
                limiter.bucket_factory.bucket.failing_rate = None
                limiter.bucket_factory.bucket.leak(0)
                assert limiter.counters.waiting == 0

        with threads_take_short_turns():
            others = [Thread(disturb) for _ in range(3)]
            threads = [Thread(lambda: sum(limiter.try_acquire(blocking=False) for _ in range(1000))) for _ in range(4)]
            assert sum(thread.result() for thread in threads) == 4000
            finished.set()
            for thread in others:
                thread.result()
        assert limiter.remaining() == [96_000]

    def test_a_name_whose_text_asks_the_limiter_admits_no_more(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR_MS))

        class Name:
            def __str__(self) -> str:
                return str(limiter.try_acquire("inner", blocking=False))

        outer = limiter.try_acquire(Name(), blocking=False)
        assert outer is False
        assert [name for name, *_ in logged(limiter)] == ["inner"]


class TestSleeping:
    @pytest.mark.parametrize("buffer_ms", [0, 50])
    def test_a_wait_is_slept_once(self, package: ModuleType, buffer_ms: int) -> None:
        clock = Clock(time.monotonic_ns)
        limiter = limiter_on(package, clock, (1, 20), buffer_ms=buffer_ms)
        assert limiter.try_acquire()
        before = clock.reads
        assert limiter.try_acquire()
        # When it asks, when it queues and when it wakes up; twice more if a platform's sleep ends early.
        assert clock.reads - before <= 5

    def test_each_in_a_crowd_sleeps_until_its_own_turn(self, package: ModuleType) -> None:
        clock = Clock(time.monotonic_ns)
        limiter = limiter_on(package, clock, (1, 10), buffer_ms=0)
        threads = [Thread(limiter.try_acquire) for _ in range(16)]
        assert all(thread.result() for thread in threads)
        assert clock.reads <= 16 * 7

    def test_a_clock_that_stands_still_short_of_the_end_does_not_make_a_thread_spin(self, package: ModuleType) -> None:
        now = 10**12
        clock = Clock(lambda: now)
        limiter = limiter_on(package, clock, (1, 1), buffer_ms=0)
        assert limiter.try_acquire()
        now += 1_000_000
        before = clock.reads
        assert limiter.try_acquire(timeout=0.05) is False
        assert clock.reads - before <= 60
        now += 1
        assert limiter.try_acquire()

    def test_a_clock_of_milliseconds_serves_threads(self, package: ModuleType) -> None:
        limiter = limiter_on(package, Milliseconds(time.monotonic_ns), (2, 10), (1000, HOUR_MS), buffer_ms=0)
        threads = [Thread(limiter.try_acquire, str(number)) for number in range(8)]
        assert all(thread.result() for thread in threads)
        assert worst(logged(limiter), 9) <= 2

    def test_a_clock_that_goes_back_admits_nothing_more_to_threads(self, package: ModuleType) -> None:
        now = 10**12
        limiter = limiter_on(package, Clock(lambda: now), (1, 1000))
        assert limiter.try_acquire()
        now -= 500_000_000
        assert limiter.try_acquire(timeout=0.01) is False
        now += 1_500_000_000
        assert limiter.try_acquire(blocking=False) is False
        now += 1
        assert limiter.try_acquire(blocking=False)

    def test_no_thread_is_started_by_a_thousand_limiters(self, package: ModuleType) -> None:
        before = set(threading.enumerate())  # other tests' may still be ending
        limiters = [package.Limiter(package.Rate(1, HOUR_MS)) for _ in range(1000)]
        for limiter in limiters:
            assert limiter.try_acquire()
            assert limiter.try_acquire(blocking=False) is False
        assert not set(threading.enumerate()) - before
        for limiter in limiters:
            limiter.close()


class TestChanges:
    def test_new_rates_serve_threads_that_wait(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR_MS))
        assert limiter.try_acquire()
        threads = [Thread(limiter.try_acquire) for _ in range(3)]
        waiting(limiter, 3)
        limiter.rates = package.Rate(2, HOUR_MS)
        waiting(limiter, 2)
        limiter.rates = package.Rate(1, 5)
        assert all(thread.result() for thread in threads)

    def test_new_rates_turn_away_threads_that_can_never_fit(self, package: ModuleType) -> None:
        limiter = package.Limiter(package.Rate(4, HOUR_MS))
        assert limiter.try_acquire(weight=4)
        light = Thread(limiter.try_acquire)
        waiting(limiter, 1)
        heavy = Thread(limiter.try_acquire, weight=3)
        waiting(limiter, 2)
        limiter.rates = package.Rate(2, HOUR_MS)
        assert heavy.result() is False
        assert limiter.counters[:3] == (1, 1, 1)
        limiter.bucket_factory.bucket.flush()
        assert light.result()

    def test_rates_come_and_go_under_load_and_the_wider_bound_holds(self, package: ModuleType) -> None:
        limiter = keeping(package, 20, 10)
        finished = threading.Event()

        def change() -> None:
            while not finished.is_set():
                for limit in (10, 20):
                    limiter.rates = [package.Rate(limit, 10), package.Rate(10_000, HOUR_MS)]
                    time.sleep(0.001)

        changing = Thread(change)
        with Loop() as loop:
            tasks = [loop.start(limiter.try_acquire_async()) for _ in range(100)]
            threads = [Thread(lambda: [limiter.try_acquire() for _ in range(20)]) for _ in range(8)]
            assert all(all(thread.result()) for thread in threads)
            assert all(task.result(60) for task in tasks)
        finished.set()
        changing.result()
        assert worst(logged(limiter), 10) <= 20
        assert limiter.counters[:3] == (260, 0, 0)


class TestLoopsAndThreads:
    def test_hold_the_bound_in_total_and_lose_nobody(self, package: ModuleType) -> None:
        limiter = keeping(package, 25, 10)

        async def crowd() -> Any:
            async def work() -> bool:
                results = [await limiter.try_acquire_async("task", timeout=3600) for _ in range(8)]
                return all(results)

            return await asyncio.gather(*(work() for _ in range(8)))

        def work() -> list[bool]:
            return [limiter.try_acquire("thread", timeout=3600) for _ in range(8)]

        with threads_take_short_turns(), Loop() as one, Loop() as other:
            tasks = [loop.start(crowd()) for loop in (one, other)]
            threads = [Thread(work) for _ in range(8)]
            assert all(all(task.result(60)) for task in tasks)
            assert all(all(thread.result()) for thread in threads)
        entries = logged(limiter)
        assert len(entries) == 2 * 64 + 64
        assert worst(entries, 10) <= 25
        assert limiter.counters[:3] == (len(entries), 0, 0)

    def test_lose_nobody_where_many_are_cancelled_or_run_out_of_patience(self, package: ModuleType) -> None:
        limiter = keeping(package, 10, 5)

        async def crowd(seed: int) -> int:
            served = 0
            for round_ in range(10):
                tasks = [
                    asyncio.create_task(limiter.try_acquire_async(timeout=-1 if number % 3 else 0.004))
                    for number in range(12)
                ]
                await asyncio.sleep(0.002 * ((seed + round_) % 3))
                for task in tasks[:: 2 + (seed + round_) % 3]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                served += sum(result is True for result in done)
            return served

        def work() -> int:
            return sum(limiter.try_acquire(timeout=0.003 * (number % 4)) for number in range(20))

        with threads_take_short_turns(), Loop() as one, Loop() as other:
            tasks = [loop.start(crowd(seed)) for seed, loop in enumerate((one, other))]
            threads = [Thread(work) for _ in range(4)]
            served = sum(task.result(60) for task in tasks) + sum(thread.result() for thread in threads)
        entries = logged(limiter)
        assert sum(weight for *_, weight in entries) == served
        assert worst(entries, 5) <= 10
        assert limiter.counters.waiting == 0
        assert limiter.try_acquire(weight=10)

    def test_several_limiters_share_one_bucket_and_count_for_themselves(self, package: ModuleType) -> None:
        bucket = package.InMemoryBucket([package.Rate(1000, HOUR_MS)])
        limiters = [package.Limiter(bucket) for _ in range(4)]
        with threads_take_short_turns():
            threads = [
                Thread(lambda limiter=limiter: sum(limiter.try_acquire(blocking=False) for _ in range(500)))
                for limiter in limiters * 2
            ]
            admitted = [thread.result() for thread in threads]
        assert sum(admitted) == 1000
        for place, limiter in enumerate(limiters):
            mine = admitted[place] + admitted[place + 4]
            assert limiter.counters == (mine, 1000 - mine, 0, 0)

    def test_a_bucket_of_the_user_s_own_serves_threads_and_loops(self, package: ModuleType) -> None:
        class Bucket(package.InMemoryBucket):  # type: ignore[misc, name-defined]
            def put(self, item: Any) -> Any:
                return super().put(item)

        bucket = Bucket([package.Rate(25, 10), package.Rate(10_000, HOUR_MS)])
        limiter = package.Limiter(bucket, buffer_ms=0)

        async def crowd() -> Any:
            return await asyncio.gather(*(limiter.try_acquire_async() for _ in range(60)))

        with Loop() as one, Loop() as other:
            tasks = [loop.start(crowd()) for loop in (one, other)]
            threads = [Thread(lambda: [limiter.try_acquire() for _ in range(8)]) for _ in range(8)]
            assert all(all(task.result(60)) for task in tasks)
            assert all(all(thread.result()) for thread in threads)
        assert worst(bucket._entries(), 10) <= 25
        assert limiter.counters[:3] == (184, 0, 0)


def is_compiled(package: ModuleType) -> bool:
    return any(each.__module__ == "aiolimiter_fast._bucket" for each in package.Limiter.__mro__)

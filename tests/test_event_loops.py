"""AsyncLimiter in event loops of every kind, in several threads, and the one timer that each loop gets."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import selectors
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
from aiolimiter.leakybucket import LIMITER_REUSED_ACROSS_LOOPS_WARNING
from waiters import Waiters

from aiolimiter_fast import AcquireTimeout
from aiolimiter_fast.testing import ManualClock

HOUR = 3600.0


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Call each function in a thread of its own, all at once; return what they returned."""
    results: list[Any] = [TimeoutError("still running after a minute")] * len(functions)

    def call(place: int) -> None:
        try:
            results[place] = functions[place]()
        except BaseException as error:  # raised again below
            results[place] = error

    threads = [threading.Thread(target=call, args=(place,), daemon=True) for place in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def in_loops(*coroutines: Coroutine[Any, Any, Any], new_loop: Callable[[], Any] = asyncio.new_event_loop) -> list[Any]:
    """Run each coroutine in a loop and a thread of its own; close no loop before all have finished."""
    finished = threading.Barrier(len(coroutines))

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with closing(new_loop()) as loop:
            try:
                return loop.run_until_complete(coroutine)
            finally:
                finished.wait(60)

    return in_threads(*(partial(run, coroutine) for coroutine in coroutines))


@contextmanager
def threads_take_short_turns() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


async def acquire(limiter: Any, times: int = 1) -> None:
    for _ in range(times):
        await limiter.acquire()


async def crowd(limiter: Any, workers: int, times: int) -> int:
    """Acquire `workers * times` permits in as many tasks as there are workers."""
    await asyncio.gather(*(acquire(limiter, times) for _ in range(workers)))
    return workers * times


def close_abruptly(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop with tasks pending, which asyncio complains of when the tasks die."""
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    gc.collect()


class TestSeveralLoops:
    def test_two_loops_in_two_threads_share_the_rate(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(100, 0.1)
        begin = time.monotonic()
        taken = in_loops(crowd(limiter, 10, 10), crowd(limiter, 10, 10))
        assert sum(taken) == 200 <= 100 + 1000 * (time.monotonic() - begin)
        assert "waiters: 0]" in repr(limiter)

    def test_plain_threads_take_what_there_is_and_no_more(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1000, 1e9)  # nothing leaks while the test runs

        def take() -> float:
            taken: int = sum(limiter.try_acquire() for _ in range(1000))
            halves: int = sum(limiter.try_acquire(0.5) for _ in range(100))
            return taken + halves / 2

        with threads_take_short_turns():
            assert sum(in_threads(*[take] * 8)) == 1000
        assert not limiter.has_capacity(0.5)

    def test_many_loops_and_threads_hold_the_bound_and_lose_nobody(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(200, 0.05)
        finished = threading.Event()
        begin = time.monotonic()

        async def work(seed: int) -> int:
            chance = random.Random(seed)
            stayers = [asyncio.create_task(acquire(limiter, 10)) for _ in range(20)]
            leavers = [asyncio.create_task(limiter.acquire(200)) for _ in range(20)]
            while leavers:
                await asyncio.sleep(0)
                leavers.pop(chance.randrange(len(leavers))).cancel()
            await asyncio.gather(*stayers)
            return 200

        def loops() -> list[int]:
            try:
                return in_loops(*(work(seed) for seed in range(4)))
            finally:
                finished.set()

        def plain() -> int:
            taken = 0
            while not finished.wait(0.001):
                taken += limiter.try_acquire()
            return taken

        with threads_take_short_turns():
            served, *more = in_threads(loops, plain, plain)
        taken = [*served, *more]
        assert taken[:4] == [200] * 4
        assert sum(taken) <= 200 + 4000 * (time.monotonic() - begin)
        assert "waiters: 0]" in repr(limiter)

    def test_a_change_in_one_thread_wakes_a_waiter_in_another(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, HOUR)
        queued = threading.Event()

        async def wait() -> None:
            await limiter.acquire()
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            queued.set()
            await task

        def change() -> None:
            assert queued.wait(60)
            limiter.burst = 2

        in_threads(lambda: asyncio.run(wait()), change)
        assert not limiter.has_capacity()

    def test_a_call_in_one_thread_serves_a_waiter_of_a_busy_loop_first(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, HOUR)
        queued, tried = threading.Event(), threading.Event()

        async def wait() -> None:
            await limiter.acquire()
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            queued.set()
            assert tried.wait(60)  # the loop is busy
            await task

        def newcomer() -> bool:
            assert queued.wait(60)
            limiter.burst = 2
            try:
                return bool(limiter.try_acquire())
            finally:
                tried.set()

        assert in_threads(lambda: asyncio.run(wait()), newcomer) == [None, False]

    def test_a_loop_that_is_closed_with_waiters_does_not_trouble_the_others(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, 0.001, fair=True)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(asyncio.wait([loop.create_task(acquire(limiter, 50))], timeout=0))
            close_abruptly(loop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reuse is another test's matter
            assert asyncio.run(crowd(limiter, 5, 2)) == 10

    def test_nobody_waits_without_a_loop(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, HOUR)
        limiter.acquire().close()
        with pytest.raises(StopIteration):
            limiter.acquire().send(None)
        with pytest.raises(RuntimeError, match="no running event loop"):
            limiter.acquire().send(None)
        assert "waiters: 0]" in repr(limiter)


class TestReuseAfterALoopWasClosed:
    def test_it_warns_once_per_loop_in_aiolimiters_words(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(100, HOUR)
        asyncio.run(acquire(limiter, 2))
        for _ in range(2):
            with pytest.warns(RuntimeWarning) as record:
                asyncio.run(acquire(limiter, 2))
            assert [str(warning.message) for warning in record] == [LIMITER_REUSED_ACROSS_LOOPS_WARNING]

    def test_it_works_on_and_keeps_its_level(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(4, HOUR)
        asyncio.run(acquire(limiter, 3))
        with pytest.warns(RuntimeWarning, match="re-used across loops"):
            asyncio.run(acquire(limiter))
        assert not limiter.try_acquire()

    def test_waiters_of_the_closed_loop_are_forgotten(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(2, HOUR)
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(acquire(limiter, 1)) for _ in range(5)]
        loop.run_until_complete(asyncio.wait(tasks, timeout=0))
        assert "waiters: 3" in repr(limiter)
        loop.close()

        async def use() -> None:
            limiter.burst = 3
            await limiter.acquire()

        with pytest.warns(RuntimeWarning, match="re-used across loops"):
            asyncio.run(use())
        assert "waiters: 0]" in repr(limiter)
        loop.set_exception_handler(lambda loop, context: None)
        assert not any(task.cancelled() for task in tasks)

    def test_a_second_loop_that_is_open_is_no_reuse(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(4, HOUR)
        with closing(asyncio.new_event_loop()) as one, closing(asyncio.new_event_loop()) as other:
            for loop in (one, other, one, other):
                loop.run_until_complete(acquire(limiter))
        assert not limiter.has_capacity()


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop whose class has a clock of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        super().__init__()

    def time(self) -> float:
        return self.clock.time()


class TestClocks:
    async def test_a_clock_set_on_the_loop_before_is_followed(self, AsyncLimiter: Any) -> None:
        with ManualClock(5.0).installed() as clock:
            limiter = AsyncLimiter(1, HOUR)
            assert limiter.try_acquire()
            clock.advance(HOUR)
            assert limiter.try_acquire()

    async def test_a_clock_set_on_the_loop_later_is_followed(self, AsyncLimiter: Any) -> None:
        first, second = AsyncLimiter(1, HOUR), AsyncLimiter(1, HOUR)
        assert first.try_acquire()
        assert not first.try_acquire()
        for start in (1e6, 2e6):
            with ManualClock(start).installed() as clock:
                assert second.has_capacity()
                assert second.try_acquire()
                assert not second.try_acquire()
                waiters = Waiters(second, clock)
                waiters.add("a")
                await clock.run(HOUR)
                assert waiters.served == [("a", HOUR)]

    async def test_it_is_followed_though_another_attribute_of_the_loop_went(self, AsyncLimiter: Any) -> None:
        loop: Any = asyncio.get_running_loop()
        limiter = AsyncLimiter(1, HOUR)
        loop.marker = None
        assert limiter.try_acquire()
        del loop.marker
        with ManualClock(time.monotonic()).installed(loop) as clock:
            clock.advance(2 * HOUR)
            assert limiter.try_acquire()

    async def test_when_it_is_taken_away_the_loops_own_clock_counts(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, HOUR)
        with ManualClock(time.monotonic() + HOUR / 2).installed():
            assert limiter.try_acquire()
        assert HOUR / 2 < limiter.wait_time() <= HOUR
        assert not limiter.try_acquire()

    def test_the_clock_of_a_subclass_is_followed(self, AsyncLimiter: Any) -> None:
        async def main(clock: ManualClock) -> list[tuple[str, float]]:
            limiter = AsyncLimiter(1, HOUR)
            waiters = Waiters(limiter, clock)
            for name in "abc":
                waiters.add(name)
            await clock.run(2 * HOUR + 1)
            return [(name, round(seconds)) for name, seconds in waiters.served]

        with closing(ManualLoop()) as loop:
            assert loop.run_until_complete(main(loop.clock)) == [("a", 0), ("b", HOUR), ("c", 2 * HOUR)]

    def test_a_monotonic_clock_that_is_replaced_is_followed(
        self, AsyncLimiter: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = ManualClock()
        monkeypatch.setattr(time, "monotonic", clock.time)

        async def main() -> None:
            limiter = AsyncLimiter(1, HOUR)
            assert limiter.try_acquire()
            clock.advance(HOUR - 1)
            assert not limiter.try_acquire()
            clock.advance(1)
            assert limiter.try_acquire()

        asyncio.run(main())

    async def test_a_timer_that_comes_early_serves_nobody_early(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        loop: Any = asyncio.get_running_loop()
        waiters = Waiters(AsyncLimiter(1, 1), clock)
        for name in "ab":
            waiters.add(name)
        with pytest.MonkeyPatch.context() as patch:
            call_at = loop.call_at
            patch.setattr(loop, "call_at", lambda when, *rest, **more: call_at(when - 0.25, *rest, **more))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            clock.advance(0.875)
            for _ in range(20):
                await asyncio.sleep(0)
            assert waiters.served == [("a", 0)]
        clock.advance(0.25)
        await clock.settle()
        assert waiters.served == [("a", 0), ("b", 1.125)]

    def test_loops_with_different_clocks_share_a_limiter(self, AsyncLimiter: Any) -> None:
        """The first loop's clock is the limiter's; a waiter in a loop whose clock stands apart is served by it too."""
        limiter = AsyncLimiter(1, HOUR)
        with closing(ManualLoop()) as one, closing(ManualLoop()) as other:
            other.clock.advance(1e6)

            async def first() -> None:
                await limiter.acquire()

            async def second() -> list[tuple[str, float]]:
                waiters = Waiters(limiter, other.clock)
                waiters.add("a")
                await other.clock.run(HOUR - 1)
                assert not waiters.served
                one.clock.advance(HOUR)
                await other.clock.run(2)
                return waiters.served

            one.run_until_complete(first())
            assert [name for name, _ in other.run_until_complete(second())] == ["a"]


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the loop goes round."""

    rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.rounds += 1
        return super().select(timeout)


class NoReaders(asyncio.SelectorEventLoop):
    """A loop that watches no descriptors for its users, as Windows' default loop does not."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


def timers(loop: Any) -> int:
    return sum(not handle.cancelled() for handle in loop._scheduled)


class TestTimers:
    async def test_one_timer_serves_all_limiters_of_a_loop(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        loop = asyncio.get_running_loop()
        limiters = [AsyncLimiter(1, 1 + number) for number in range(100)]
        tasks = [
            asyncio.create_task(limiter.acquire(timeout=timeout))
            for limiter in limiters
            for timeout in (None, None, None, 1000)
        ]
        await clock.settle()
        assert timers(loop) == 1
        await clock.run(50.0)
        assert timers(loop) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert timers(loop) == 0

    async def test_a_crowd_that_is_due_is_served_in_slices(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(100_000, 1)
        await limiter.acquire(100_000)
        served = 0

        async def work() -> None:
            nonlocal served
            await limiter.acquire()
            served += 1

        tasks = [asyncio.create_task(work()) for _ in range(100_000)]
        await clock.settle()
        clock.advance(2.0)
        turns = most = before = 0
        while served < 100_000:
            await asyncio.sleep(0)
            turns += 1
            most = max(most, served - before)
            before = served
            assert turns < 2000
        # What else the loop has to do gets its turn a hundred times meanwhile.
        assert most <= 1000
        await asyncio.wait(tasks)

    def test_a_loop_sleeps_while_everybody_waits(self, AsyncLimiter: Any) -> None:
        selector = CountingSelector()

        async def main() -> int:
            limiter = AsyncLimiter(1, HOUR)
            await limiter.acquire()
            tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10_000)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            before = selector.rounds
            await asyncio.sleep(0.25)
            rounds = selector.rounds - before
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return rounds

        with closing(asyncio.SelectorEventLoop(selector)) as loop:
            # Into the sleep and out of it; a turn more where the system's timer comes a little early.
            assert loop.run_until_complete(main()) <= 4

    def test_a_loop_without_readers_is_served_by_call_at(self, AsyncLimiter: Any) -> None:
        with closing(NoReaders()) as loop:
            assert loop.run_until_complete(crowd(AsyncLimiter(4, 0.004), 5, 2)) == 10

            async def give_up() -> None:
                limiter = AsyncLimiter(1, 0.002, fair=True)
                large = asyncio.create_task(limiter.acquire(timeout=0.01))
                await large
                with pytest.raises(AcquireTimeout):
                    await limiter.acquire(timeout=0.0001)
                await limiter.acquire()

            loop.run_until_complete(give_up())

    def test_a_real_timeout_comes_by_the_same_timer(self, AsyncLimiter: Any) -> None:
        async def main() -> None:
            limiter = AsyncLimiter(1, 0.25)
            await limiter.acquire()
            waiting = asyncio.create_task(limiter.acquire(timeout=0.3))
            await asyncio.sleep(0)
            limiter.time_period = HOUR
            with pytest.raises(AcquireTimeout):
                await waiting

        asyncio.run(main())


async def test_a_clock_replaced_after_real_waits_is_not_led(AsyncLimiter: Any) -> None:
    """The timer has learnt by then how late the system is; the manual clock is never late."""
    limiter = AsyncLimiter(1, 0.002, burst=1)
    for _ in range(50):
        await limiter.acquire()
    with ManualClock().installed() as clock:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        waiter = asyncio.create_task(limiter.acquire())
        await clock.run(0.999999999)
        assert not waiter.done()
        await clock.run(1e-9)
        assert waiter.done()


class TestLoopsAreFreed:
    def test_one_that_is_never_closed(self, AsyncLimiter: Any) -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(acquire(AsyncLimiter(1, 0.001), 2))
        watched = ref(loop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del loop
            gc.collect()
        assert watched() is None

    def test_one_whose_own_attributes_refer_to_it(self, AsyncLimiter: Any) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            loop.set_exception_handler(partial(print, loop))
            loop.run_until_complete(acquire(AsyncLimiter(1, 0.001), 2))
            watched = ref(loop)
        del loop
        gc.collect()
        assert watched() is None

    def test_one_that_a_living_limiter_has_met(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, 0.001)
        with closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(acquire(limiter, 2))
            watched = ref(loop)
        del loop
        gc.collect()
        assert watched() is None
        assert isinstance(limiter.wait_time(), float)


if sys.platform == "linux":

    def timerfds() -> int:
        names = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the directory's own
                names.append(os.readlink(f"/proc/self/fd/{number}"))
        return sum("timerfd" in name for name in names)

    class TestTimerDescriptors:
        @pytest.fixture
        def each(self, engine: ModuleType) -> int:
            """Descriptors per loop: Python itself offers them from 3.13 on."""
            return int("_py" not in engine.__name__ or sys.version_info >= (3, 13))

        @pytest.fixture(autouse=True)
        def _none_is_left(self) -> Iterator[None]:
            gc.collect()
            before = timerfds()
            yield
            gc.collect()
            assert timerfds() == before

        def test_there_is_one_per_loop(self, AsyncLimiter: Any, each: int) -> None:
            async def main() -> int:
                before = timerfds()
                limiters = [AsyncLimiter(1, HOUR) for _ in range(50)]
                tasks = [asyncio.create_task(acquire(limiter, 2)) for limiter in limiters for _ in range(20)]
                await asyncio.sleep(0)
                during = timerfds()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                return during - before

            assert asyncio.run(main()) == each

        def test_it_is_gone_when_the_loop_is_closed_with_waiters(self, AsyncLimiter: Any, each: int) -> None:
            limiter = AsyncLimiter(1, HOUR)
            before = timerfds()
            loop = asyncio.new_event_loop()
            task = loop.create_task(acquire(limiter, 2))
            loop.run_until_complete(asyncio.wait([task], timeout=0))
            assert timerfds() == before + each
            loop.set_exception_handler(lambda loop, context: None)
            loop.close()
            assert timerfds() == before

        def test_a_loop_without_readers_has_none(self, AsyncLimiter: Any) -> None:
            with closing(NoReaders()) as loop:
                before = timerfds()
                loop.run_until_complete(acquire(AsyncLimiter(1, 0.001), 2))
                assert timerfds() == before

        def test_it_is_not_inherited_by_programs(self, AsyncLimiter: Any, each: int) -> None:
            async def main() -> list[bool]:
                await acquire(AsyncLimiter(1, 0.001), 2)
                numbers = [int(number) for number in os.listdir("/proc/self/fd")]
                found = []
                for number in numbers:
                    with suppress(OSError):
                        if "timerfd" in os.readlink(f"/proc/self/fd/{number}"):
                            found.append(os.get_inheritable(number))
                return found

            assert not any(asyncio.run(main()))

        def test_the_context_of_the_first_caller_is_not_kept(self, AsyncLimiter: Any) -> None:
            class Request:
                pass

            variable: ContextVar[Request] = ContextVar("variable")

            async def main() -> bool:
                async def first() -> Any:
                    request = Request()
                    variable.set(request)
                    await acquire(AsyncLimiter(1, 0.001), 2)
                    return ref(request)

                request = await asyncio.create_task(first())
                await asyncio.sleep(0)
                gc.collect()
                return request() is None

            assert asyncio.run(main())


if sys.platform != "win32":
    import uvloop

    class TestUvloop:
        @pytest.fixture
        def loop(self) -> Iterator[asyncio.AbstractEventLoop]:
            with closing(uvloop.new_event_loop()) as loop:
                yield loop

        def test_the_rate_is_held(self, AsyncLimiter: Any, loop: asyncio.AbstractEventLoop) -> None:
            limiter = AsyncLimiter(10, 0.01)
            begin = time.monotonic()
            assert loop.run_until_complete(crowd(limiter, 20, 2)) == 40 <= 10 + 1000 * (time.monotonic() - begin)

        def test_cancelled_waiters_give_way(self, AsyncLimiter: Any, loop: asyncio.AbstractEventLoop) -> None:
            async def main() -> None:
                limiter = AsyncLimiter(2, HOUR, fair=True)
                await limiter.acquire()
                leaver = asyncio.create_task(limiter.acquire(2))
                stayer = asyncio.create_task(limiter.acquire())
                await asyncio.sleep(0)
                leaver.cancel()
                await stayer
                assert leaver.cancelled()
                assert not limiter.has_capacity()

            loop.run_until_complete(main())

        def test_timeouts_come(self, AsyncLimiter: Any, loop: asyncio.AbstractEventLoop) -> None:
            async def main() -> None:
                limiter = AsyncLimiter(1, HOUR)
                await limiter.acquire()
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(limiter.acquire(), 0.01)
                with pytest.raises(AcquireTimeout):
                    await limiter.acquire(timeout=0.01)
                assert "waiters: 0]" in repr(limiter)

            loop.run_until_complete(main())

        def test_it_runs_in_two_threads_at_once(self, AsyncLimiter: Any) -> None:
            limiter = AsyncLimiter(10, 0.01)
            begin = time.monotonic()
            taken = in_loops(crowd(limiter, 5, 5), crowd(limiter, 5, 5), new_loop=uvloop.new_event_loop)
            assert sum(taken) == 50 <= 10 + 1000 * (time.monotonic() - begin)

        def test_reuse_after_it_was_closed_warns(self, AsyncLimiter: Any) -> None:
            limiter = AsyncLimiter(2, HOUR)
            with closing(uvloop.new_event_loop()) as loop:
                loop.run_until_complete(acquire(limiter))
            with closing(uvloop.new_event_loop()) as loop, pytest.warns(RuntimeWarning, match="re-used across loops"):
                loop.run_until_complete(acquire(limiter))
            assert not limiter.try_acquire()

        if sys.platform == "linux":

            def test_no_descriptor_is_left(self, AsyncLimiter: Any) -> None:
                before = timerfds()
                limiter = AsyncLimiter(1, HOUR)
                for _ in range(20):
                    limiter = AsyncLimiter(1, HOUR)
                    loop = uvloop.new_event_loop()
                    task = loop.create_task(acquire(limiter, 2))
                    loop.run_until_complete(asyncio.wait([task], timeout=0))
                    close_abruptly(loop)
                    del task, loop
                gc.collect()
                assert timerfds() == before


if sys.version_info >= (3, 12):

    class TestEagerTasks:
        @pytest.fixture(autouse=True)
        async def _eager(self) -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def test_with_room_a_task_is_done_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
            limiter = AsyncLimiter(2, 1)
            assert asyncio.create_task(limiter.acquire()).done()
            assert Waiters(limiter, clock).add("a").done()
            assert not limiter.has_capacity()

        async def test_without_room_it_waits(self, AsyncLimiter: Any, clock: ManualClock) -> None:
            limiter = AsyncLimiter(1, 1)
            waiters = Waiters(limiter, clock)
            tasks = [waiters.add(name) for name in "abc"]
            direct = asyncio.create_task(limiter.acquire())
            assert "waiters: 3" in repr(limiter)
            tasks[1].cancel()
            await clock.run(3.0)
            assert waiters.served == [("a", 0), ("c", 1.0)]
            assert direct.done()

        async def test_errors_come_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
            limiter = AsyncLimiter(1, 1)
            task = asyncio.create_task(limiter.acquire(2))
            assert task.done()
            assert isinstance(task.exception(), ValueError)


class TestDebugMode:
    async def test_all_is_as_usual(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        asyncio.get_running_loop().set_debug(True)
        limiter = AsyncLimiter(2, 2)
        waiters = Waiters(limiter, clock)
        tasks = [waiters.add(name) for name in "abcde"]
        await clock.settle()
        tasks[3].cancel()
        await clock.run(3.0)
        assert waiters.served == [("a", 0), ("b", 0), ("c", 1.0), ("e", 2.0)]

    async def test_an_acquire_that_nobody_awaits_warns(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)

        def forget() -> None:
            limiter.acquire()
            gc.collect()

        with pytest.warns(RuntimeWarning, match=r"coroutine 'AsyncLimiter\.acquire' was never awaited"):
            forget()
        assert limiter.has_capacity()

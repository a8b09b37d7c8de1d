"""Throttler: never more than `rate_limit` in any period, wherever it begins, and no later than need be."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from asyncio_throttle.throttler import Throttler as PollingThrottler
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import AcquireTimeout, throttling
from aiolimiter_fast.testing import ManualClock

HOUR = 3600.0


@pytest.fixture(scope="session")
def Throttler(pacing: ModuleType) -> Any:  # noqa: N802
    return pacing.Throttler


class Entries:
    """Tasks that enter, and the nanoseconds since the start at which they did."""

    def __init__(self, throttler: Any, clock: ManualClock) -> None:
        self.throttler = throttler
        self.clock = clock
        self.start = clock.time_ns()
        self.served: list[tuple[int, int]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, number: int = 1) -> None:
        for _ in range(number):
            self.tasks.append(asyncio.create_task(self._enter(len(self.tasks))))

    async def _enter(self, number: int) -> None:
        async with self.throttler as nothing:
            assert nothing is None
            self.served.append((number, self.clock.time_ns() - self.start))

    @property
    def times(self) -> list[int]:
        return [time for _, time in self.served]

    @property
    def order(self) -> list[int]:
        return [number for number, _ in self.served]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


MS = 1_000_000


async def test_who_has_no_room_enters_right_after_the_period_and_in_order(Throttler: Any, clock: ManualClock) -> None:
    entries = Entries(Throttler(3, 0.1), clock)
    entries.add(7)
    await clock.run(1)
    assert entries.order == list(range(7))
    # A window is closed at both ends: an entry counts until it is more than a period old.
    assert entries.times == [0] * 3 + [100 * MS + 1] * 3 + [200 * MS + 2]


async def test_each_entry_frees_its_own_room(Throttler: Any, clock: ManualClock) -> None:
    entries = Entries(Throttler(2, 0.1), clock)
    entries.add(1)
    await clock.run(0.06)
    entries.add(3)
    await clock.run(1)
    assert entries.times == [0, 60 * MS, 100 * MS + 1, 160 * MS + 1]


async def test_nothing_is_polled(Throttler: Any, clock: ManualClock) -> None:
    loop = asyncio.get_running_loop()
    entries = Entries(Throttler(1, HOUR, retry_interval=0.001), clock)
    entries.add(3)
    await clock.settle()
    with mock.patch.object(loop, "call_at", side_effect=AssertionError("a timer more")):
        await clock.run(HOUR / 2)
    await entries.close()


async def test_a_cancelled_one_takes_no_room(Throttler: Any, clock: ManualClock) -> None:
    entries = Entries(Throttler(1, 1.0), clock)
    entries.add(4)
    await clock.settle()
    entries.tasks[1].cancel()
    clock.advance(1.5)
    for _ in range(10):
        await asyncio.sleep(0)
        if entries.tasks[2]._fut_waiter.done():  # type: ignore[attr-defined]
            break
    entries.tasks[2].cancel()  # let through, and not run on yet
    await clock.settle()
    assert entries.served == [(0, 0), (3, 1500 * MS)]


async def test_its_attributes_can_be_set_while_tasks_wait(Throttler: Any, clock: ManualClock) -> None:
    throttler = Throttler(1, HOUR)
    entries = Entries(throttler, clock)
    entries.add(4)
    await clock.run(1)
    throttler.rate_limit = 3
    await clock.settle()
    assert len(entries.served) == 3
    throttler.period = 2.0
    await clock.run(1)
    assert len(entries.served) == 3
    await clock.run(2)
    assert len(entries.served) == 4
    throttler.retry_interval = 5
    assert (throttler.rate_limit, throttler.period, throttler.retry_interval) == (3, 2.0, 5)


async def test_a_fraction_counts_as_a_whole_as_in_asyncio_throttle(Throttler: Any, clock: ManualClock) -> None:
    entries = Entries(Throttler(2.5, 1.0), clock)
    entries.add(5)
    await clock.settle()
    assert len(entries.served) == 3
    await entries.close()


async def test_flush_forgets_what_is_older_than_the_period(Throttler: Any, clock: ManualClock) -> None:
    throttler = Throttler(2, 1.0)
    entries = Entries(throttler, clock)
    entries.add(2)
    await clock.run(1.0)
    throttler.flush()
    assert throttler._line._units() == 2
    await clock.run(0.1)
    throttler.flush()
    assert throttler._line._units() == 0
    entries.add(2)
    await clock.settle()
    assert len(entries.served) == 4


def test_it_is_used_again_in_another_loop_and_remembers(Throttler: Any) -> None:
    throttler = Throttler(3, HOUR)

    async def enter() -> None:
        async with throttler:
            pass

    for _ in range(3):
        asyncio.run(enter())
    with pytest.raises(AcquireTimeout):
        throttler.acquire_sync(timeout=0.01)


def test_threads_and_tasks_share_it(Throttler: Any) -> None:
    throttler = Throttler(4, 0.05)
    instants: list[int] = []

    def in_thread() -> None:
        for _ in range(4):
            with throttler:
                instants.append(throttler._now_ns())

    async def in_loop() -> None:
        for _ in range(4):
            await throttler.acquire()
            instants.append(throttler._now_ns())

    threads = [threading.Thread(target=in_thread) for _ in range(2)]
    threads.append(threading.Thread(target=asyncio.run, args=(in_loop(),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(instants) == 12
    entries = [time for _, time, _ in throttler._line._entries()]
    assert all(later - earlier > 50 * MS for earlier, later in zip(entries, entries[4:], strict=False))


async def test_ten_thousand_wait_in_order(Throttler: Any, clock: ManualClock) -> None:
    entries = Entries(Throttler(100, 0.01), clock)
    entries.add(10_000)
    await clock.run(1.1)
    assert entries.order == list(range(10_000))


@pytest.mark.parametrize("rate_limit", [0, -1, float("nan"), float("inf"), 1e13])
def test_a_bad_rate_limit_is_refused_and_changes_nothing(Throttler: Any, rate_limit: float) -> None:
    throttler = Throttler(2, 1.0)
    for act in (lambda: Throttler(rate_limit), lambda: setattr(throttler, "rate_limit", rate_limit)):
        with pytest.raises(ValueError, match=r"rate_limit must be .* got"):
            act()
    assert throttler.rate_limit == 2


@pytest.mark.parametrize("period", [0, -1, float("nan"), float("inf"), 1e10])
def test_a_bad_period_is_refused_and_changes_nothing(Throttler: Any, period: float) -> None:
    throttler = Throttler(2, 1.0)
    for act in (lambda: Throttler(2, period), lambda: setattr(throttler, "period", period)):
        with pytest.raises(ValueError, match=r"period must be .* got"):
            act()
    assert throttler.period == 1.0
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match="period must be a number"):
            throttler.period = wrong
        with pytest.raises(TypeError, match="rate_limit must be a number"):
            throttler.rate_limit = wrong
        with pytest.raises(TypeError, match="retry_interval must be a number"):
            Throttler(1, 1.0, wrong)


def test_its_parameters_are_those_of_asyncio_throttle(Throttler: Any) -> None:
    ours, theirs = (inspect.signature(cls).parameters.values() for cls in (Throttler, PollingThrottler))
    assert [(parameter.name, parameter.default) for parameter in ours] == [
        (parameter.name, parameter.default) for parameter in theirs
    ]


def test_it_can_be_copied_and_pickled(Throttler: Any) -> None:
    throttler = Throttler(2, 0.5, 0.1)
    for again in (copy.copy(throttler), copy.deepcopy(throttler), pickle.loads(pickle.dumps(throttler))):
        assert (again.rate_limit, again.period, again.retry_interval) == (2, 0.5, 0.1)
        assert repr(again) == repr(throttler) == "Throttler(rate_limit=2, period=0.5)"


@given(
    limit=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 400), st.booleans(), st.integers(0, 40)), min_size=1, max_size=40
    ),
)
def test_no_period_holds_more_than_the_limit_and_no_room_is_left_unused(
    Throttler: Any, limit: int, steps: list[tuple[int, int, bool, int]]
) -> None:
    """Steps: tasks that come, milliseconds that pass, whether all at once, and a task to be cancelled."""
    period = 100 * MS

    async def play() -> None:
        with ManualClock().installed() as clock:
            entries = Entries(Throttler(limit, 0.1), clock)
            for come, milliseconds, stalls, cancelled in steps:
                entries.add(come)
                await clock.settle()
                if cancelled < len(entries.tasks):
                    entries.tasks[cancelled].cancel()
                if stalls:
                    clock.advance(milliseconds / 1000)
                    await clock.settle()
                else:
                    await clock.run(milliseconds / 1000)
                times = entries.times
                now = clock.time_ns() - entries.start
                waiting = [task for task in entries.tasks if not task.done()]
                inside = sum(now - time <= period for time in times)
                assert inside == limit or not waiting
            assert all(later - time > period for time, later in zip(times, times[limit:], strict=False))
            assert entries.order == sorted(entries.order)
            await entries.close()

    asyncio.run(play())


class TestThrottling:
    """The throttler package's decorators, on asyncio's clock."""

    async def test_throttle_limits_each_function_by_itself(self, clock: ManualClock) -> None:
        ran: list[tuple[str, float]] = []

        @throttling.throttle(2, 1.0)
        async def one() -> None:
            ran.append(("one", clock.time()))

        @throttling.throttle(rate_limit=1, period=1.0)
        async def other() -> None:
            ran.append(("other", clock.time()))

        tasks = [asyncio.create_task(call()) for call in (one, one, one, other)]
        await clock.settle()
        assert [name for name, _ in ran] == ["one", "one", "other"]
        await clock.run(1.1)
        assert len(ran) == 4
        await asyncio.gather(*tasks)
        assert one.__name__ == "one"

    def test_throttle_limits_plain_functions_too(self) -> None:
        @throttling.throttle(1000)
        def double(value: int) -> int:
            return 2 * value

        assert double(4) == 8

    async def test_throttle_simultaneous_bounds_how_many_run_at_once(self) -> None:
        running = most = 0

        @throttling.throttle_simultaneous(count=3)
        async def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert most == 3
        with pytest.raises(TypeError, match="decorates async functions"):
            throttling.throttle_simultaneous(3)(len)  # type: ignore[arg-type]

    async def test_execution_timer_keeps_a_period_between_starts(self, clock: ManualClock) -> None:
        ran: list[float] = []

        @throttling.execution_timer(10)
        async def work() -> None:
            ran.append(clock.time() - 1000)

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await clock.run(20)
        assert ran == [0, 10, 20]
        await asyncio.gather(*tasks)

    async def test_execution_timer_can_keep_to_the_wall_clock(self, clock: ManualClock) -> None:
        ran: list[float] = []
        with mock.patch("aiolimiter_fast.throttling.time.time", side_effect=lambda: clock.time() + 7):

            @throttling.execution_timer(60, align_sleep=True)
            async def work() -> None:
                ran.append(clock.time() + 7)

            tasks = [asyncio.create_task(work()) for _ in range(3)]
            await clock.run(120)
            await asyncio.gather(*tasks)
        assert [round(time, 6) for time in ran] == [1007, 1020, 1080]

    def test_execution_timer_is_for_plain_functions_too(self) -> None:
        with throttling.ExecutionTimer(1e-6) as nothing:
            assert nothing is None
        now = [100.0]
        with (
            mock.patch("aiolimiter_fast.throttling.time.time", side_effect=lambda: now[0]),
            mock.patch("aiolimiter_fast.throttling.time.sleep", side_effect=lambda wait: now.append(now.pop() + wait)),
        ):
            timer = throttling.ExecutionTimer(60, align_sleep=True)
            for expected in (100, 120, 180):
                with timer:
                    assert now[0] == expected

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (throttling.throttle, "rate_limit"),
            (throttling.throttle_simultaneous, "count"),
            (throttling.execution_timer, "period"),
        ],
    )
    def test_bad_arguments_are_refused_at_once(self, make: Callable[[Any], Awaitable[None]], name: str) -> None:
        for value in (0, -1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} must be"):
                make(value)
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            make("1")

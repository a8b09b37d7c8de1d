"""Tasks that stop waiting: what they took goes to the next, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from waiters import Waiters

from aiolimiter_fast import AcquireTimeout
from aiolimiter_fast.testing import ManualClock


def soon(clock: ManualClock, seconds: float, function: Callable[[], object]) -> None:
    """Call `function` that many seconds from now, right after the timers that are due before it."""
    asyncio.get_running_loop().call_at(clock.time() + seconds, function)


class TestWhileWaiting:
    async def test_the_next_is_served_as_if_it_had_never_been_there(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        waiters = Waiters(AsyncLimiter(4, 4, fair=True), clock)
        waiters.add("first", 4)
        leaver = waiters.add("leaver", 2)
        waiters.add("next", 3)
        await clock.settle()
        await clock.run(1.0)
        leaver.cancel()
        await clock.run(4.0)
        assert leaver.cancelled()
        assert waiters.served == [("first", 0), ("next", 3.0)]

    async def test_a_newcomer_sees_the_room_at_once(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4, fair=True)
        await limiter.acquire(2)
        leaver = Waiters(limiter, clock).add("leaver", 4)
        await clock.settle()
        assert not limiter.try_acquire(2)
        leaver.cancel()
        await clock.settle()
        assert limiter.try_acquire(2)

    async def test_those_behind_it_need_not_wait_for_its_turn(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4, fair=True)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        leaver = waiters.add("leaver", 4)
        waiters.add("one")
        waiters.add("other")
        await clock.settle()
        leaver.cancel()
        await clock.settle()
        assert waiters.served == [("one", 0), ("other", 0)]

    async def test_the_oldest_leaves_its_place_to_the_next_oldest(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(4)
        oldest = waiters.add("oldest", 4)
        waiters.add("second", 3)
        for _ in range(20):
            waiters.add("small")
            await clock.run(1.0)
            oldest.cancel()
        # It was passed by as many as the bound allows, counted from its own arrival.
        assert waiters.names.index("second") == 4

    async def test_everybody_may_leave(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()
        tasks = [waiters.add("leaver") for _ in range(10)]
        await clock.settle()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert "waiters: 0]" in repr(limiter)
        await clock.run(1.0)
        await limiter.acquire(block=False)
        assert not waiters.served

    async def test_one_with_a_timeout_may_leave(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()
        leaver = waiters.add("leaver", timeout=1.5)
        stayer = waiters.add("stayer", timeout=2.5)
        await clock.settle()
        leaver.cancel()
        await clock.run(5.0)
        assert leaver.cancelled()
        await stayer
        assert waiters.served == [("stayer", 1.0)]

    async def test_cancelled_before_its_first_step_it_took_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        with warnings.catch_warnings():
            # A task that never ran closes the coroutine that it was given; that is no forgotten await.
            warnings.simplefilter("error")
            task = asyncio.create_task(limiter.acquire())
            task.cancel()
            await asyncio.wait([task])
        assert limiter.has_capacity()

    async def test_a_task_that_ignores_it_may_wait_again(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        times: list[float] = []

        async def stubborn() -> None:
            try:
                await limiter.acquire()
            except asyncio.CancelledError:
                await limiter.acquire()
            times.append(clock.time() - 1000)

        task = asyncio.create_task(stubborn())
        await clock.settle()
        task.cancel()
        await clock.run(3.0)
        assert task.done()
        assert times == [1.0]


class TestBetweenGrantAndResumption:
    """The loop grants in one turn and resumes the task in the next; here it is cancelled between the two."""

    @pytest.mark.parametrize("fair", [False, True])
    async def test_a_cancelled_waiter_gives_its_permit_to_the_next(
        self, AsyncLimiter: Any, clock: ManualClock, fair: bool
    ) -> None:
        waiters = Waiters(AsyncLimiter(1, 1, fair=fair), clock)
        waiters.add("first")
        leaver = waiters.add("leaver")
        waiters.add("next")
        await clock.settle()
        soon(clock, 1.0 + 1e-6, leaver.cancel)
        clock.advance(1.5)
        await clock.settle()
        assert leaver.cancelled()
        assert waiters.served == [("first", 0), ("next", 1.5)]

    async def test_without_a_next_the_permit_is_free_again(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4)
        await limiter.acquire(4)
        leaver = Waiters(limiter, clock).add("leaver", 3)
        await clock.settle()
        soon(clock, 3.0 + 1e-6, leaver.cancel)
        clock.advance(3.25)
        await clock.settle()
        assert leaver.cancelled()
        assert limiter.has_capacity(3.25)
        assert not limiter.has_capacity(3.5)

    async def test_it_was_granted_indeed(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        leaver = Waiters(limiter, clock).add("leaver")
        await clock.settle()
        seen: list[tuple[bool, bool]] = []

        def look_and_cancel() -> None:
            seen.append((leaver.done(), limiter.has_capacity()))
            leaver.cancel()

        soon(clock, 1.0 + 1e-6, look_and_cancel)
        clock.advance(1.5)
        await clock.settle()
        assert seen == [(False, False)]
        assert limiter.has_capacity()

    async def test_giving_back_late_returns_no_more_than_is_left(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(4, 4)
        await limiter.acquire(4)
        leaver = Waiters(limiter, clock).add("leaver", 4)
        await clock.settle()

        def cancel_late() -> None:
            clock.advance(3.0)
            assert limiter.try_acquire(3)
            leaver.cancel()

        soon(clock, 4.0 + 1e-6, cancel_late)
        clock.advance(4.5)
        await clock.settle()
        # Granted at 4.5, the four permits would have drained at 8.5; at 7.5 a single one is left to be returned.
        assert limiter.has_capacity(1)
        assert not limiter.has_capacity(1.5)

    async def test_an_expired_waiter_that_is_cancelled_too_takes_nothing(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(4, 4, fair=True)
        await limiter.acquire(4)
        waiters = Waiters(limiter, clock)
        leaver = waiters.add("leaver", 4, timeout=4)
        waiters.add("next", 1)
        await clock.settle()
        limiter.time_period = 8
        soon(clock, 4.0 + 1e-6, leaver.cancel)
        clock.advance(4.5)
        await clock.settle()
        assert leaver.cancelled()
        assert waiters.served == [("next", 4.5)]


async def wait_for(limiter: Any, timeout: float) -> None:
    await asyncio.wait_for(limiter.acquire(), timeout)


async def its_own(limiter: Any, timeout: float) -> None:
    await limiter.acquire(timeout=timeout)


WAYS_TO_GIVE_UP = [wait_for, its_own]

if sys.version_info >= (3, 11):

    async def timeout_block(limiter: Any, timeout: float) -> None:
        async with asyncio.timeout(timeout), limiter:
            pass

    WAYS_TO_GIVE_UP.append(timeout_block)


@pytest.mark.parametrize("give_up", WAYS_TO_GIVE_UP)
@pytest.mark.parametrize("margin", [-1e-6, 0.0, 1e-6])
@pytest.mark.parametrize("overslept", [0.0, 1e-6, 0.25])
async def test_a_timeout_in_the_tick_of_the_grant_loses_no_permit(
    AsyncLimiter: Any, clock: ManualClock, give_up: Any, margin: float, overslept: float
) -> None:
    limiter = AsyncLimiter(1, 1, fair=True)
    waiters = Waiters(limiter, clock)
    # Out of the way of the timeout that is refused at once, as the wait is known to be longer.
    limiter.time_period = 0.5
    await limiter.acquire()
    first = asyncio.create_task(give_up(limiter, 1.0 + margin))
    waiters.add("next")
    await clock.settle()
    limiter.time_period = 1.0
    clock.advance(1.0 + max(margin, 0.0) + overslept)
    await clock.settle()
    assert first.done()
    if first.exception() is None:
        assert not waiters.served
        await clock.run(1.0)
    else:
        assert isinstance(first.exception(), (TimeoutError, asyncio.TimeoutError))
    assert waiters.names == ["next"]
    assert not limiter.has_capacity()


class TestCrowds:
    async def test_ten_thousand_with_random_cancellations(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        chance = random.Random(947)
        limiter = AsyncLimiter(256, 0.25, burst=16)  # 16 permits every 1/64 of a second
        waiters = Waiters(limiter, clock)
        await limiter.acquire(16)
        waiting = {str(number): waiters.add(str(number)) for number in range(10_000)}
        cancelled: list[asyncio.Task[None]] = []

        def cancel_some(count: int) -> None:
            """Among them tasks that were granted a permit in this turn and have not been resumed."""
            nearest = list(waiting)[: 4 * count]
            for name in chance.sample(nearest, min(count, len(nearest))):
                if not waiting[name].done():
                    cancelled.append(waiting.pop(name))
                    cancelled[-1].cancel()

        await clock.settle()
        turns = 0
        while waiting:
            clock.advance(1 / 64)
            turns += 1
            cancel_some(chance.randrange(4))
            await asyncio.sleep(0)
            cancel_some(chance.randrange(4))
            await clock.settle()
            for name, time in waiters.served[-16:]:
                assert time <= turns / 64
                waiting.pop(name, None)
            # Nothing is lost and nothing is given twice: as long as somebody waits, every permit is used.
            assert len(waiters.served) == 16 * turns or not waiting
        await asyncio.wait(cancelled)
        assert all(task.cancelled() for task in cancelled)
        assert len(waiters.served) + len(cancelled) == 10_000
        assert turns == -(-len(waiters.served) // 16)
        assert len(cancelled) > 1000

    async def test_twenty_thousand_dead_ones_behind_a_live_one_keep_no_future(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(2, 3600)
        waiters = Waiters(limiter, clock)
        await limiter.acquire(2)
        live = waiters.add("live", 1)
        tasks = [asyncio.create_task(limiter.acquire(2)) for _ in range(20_000)]
        await clock.settle()
        futures = [ref(task._fut_waiter) for task in tasks]  # type: ignore[attr-defined]
        assert "waiters: 20001" in repr(limiter)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del task, tasks
        gc.collect()
        assert "waiters: 1," in repr(limiter)
        # The twin sorts out its heap once the dead outnumber the living by some dozens.
        assert sum(future() is not None for future in futures) < 100
        await clock.run(1800.0)
        assert live.done()


class TestByHand:
    """What `Task` does to a coroutine, done by hand."""

    async def test_close_while_waiting_leaves_the_queue(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()
        awaitable = limiter.acquire()
        future = awaitable.send(None)
        assert isinstance(future, asyncio.Future)
        waiters.add("next")
        await clock.settle()
        assert "waiters: 2" in repr(limiter)
        awaitable.close()
        assert "waiters: 1" in repr(limiter)
        awaitable.close()
        await clock.run(1.0)
        assert waiters.served == [("next", 1.0)]
        with pytest.raises(RuntimeError):
            awaitable.send(None)

    async def test_close_before_the_start_warns_of_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            limiter.acquire().close()
            gc.collect()
        assert limiter.has_capacity()

    async def test_close_after_the_grant_gives_it_back(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        awaitable = limiter.acquire()
        future = awaitable.send(None)
        clock.advance(1.0 + 1e-6)
        await clock.settle()
        assert future.done()
        assert not limiter.has_capacity()
        awaitable.close()
        assert limiter.has_capacity()

    @pytest.mark.parametrize(
        "arguments", [(KeyError("x"),), (KeyError,), (KeyError, "x"), (KeyError, KeyError("x"), None)]
    )
    @pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
    async def test_throw_raises_inside_and_leaves_the_queue(
        self, AsyncLimiter: Any, clock: ManualClock, arguments: Any
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        awaitable = limiter.acquire()
        awaitable.send(None)
        with pytest.raises(KeyError):
            awaitable.throw(*arguments)
        assert "waiters: 0]" in repr(limiter)
        clock.advance(1.0)
        assert limiter.try_acquire()

    async def test_throw_before_the_start_takes_nothing(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        awaitable = limiter.acquire()
        with pytest.raises(KeyError):
            awaitable.throw(KeyError())
        with pytest.raises(RuntimeError):
            await awaitable
        assert limiter.has_capacity()

    async def test_a_waiting_coroutine_that_is_dropped_leaves_the_queue(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()

        async def work() -> None:
            async with limiter:
                pass

        coroutine = work()
        coroutine.send(None)
        waiters.add("next")
        await clock.settle()
        assert "waiters: 2" in repr(limiter)
        del coroutine
        gc.collect()
        assert "waiters: 1" in repr(limiter)
        await clock.run(1.0)
        assert waiters.served == [("next", 1.0)]

    async def test_a_future_that_somebody_else_resolves_is_no_permit(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        await limiter.acquire()
        task = waiters.add("a")
        await clock.settle()
        task._fut_waiter.set_result(None)  # type: ignore[attr-defined]
        await clock.settle()
        assert not waiters.served
        await clock.run(1.0)
        assert waiters.served == [("a", 1.0)]

    async def test_a_future_that_somebody_else_resolves_leaves_the_timeout_as_it_was(
        self, AsyncLimiter: Any, clock: ManualClock
    ) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        task = asyncio.create_task(limiter.acquire(timeout=1.5))
        await clock.run(0.5)
        task._fut_waiter.set_result(None)  # type: ignore[attr-defined]
        await clock.settle()
        limiter.time_period = 10
        await clock.run(0.75)
        assert not task.done()
        await clock.run(0.25)
        with pytest.raises(AcquireTimeout, match=r"acquire\(amount=1\) would wait longer"):
            task.result()


class TestGroups:
    async def test_a_gather_that_is_cancelled_leaves_nobody_behind(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        group = asyncio.gather(*(limiter.acquire() for _ in range(5)))
        await clock.settle()
        group.cancel()
        with pytest.raises(asyncio.CancelledError):
            await group
        assert "waiters: 0]" in repr(limiter)

    async def test_gather_returns_the_errors_it_is_asked_for(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        results = await asyncio.gather(
            limiter.acquire(), limiter.acquire(timeout=0.5), limiter.acquire(2), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), AcquireTimeout, ValueError]

    async def test_wait_leaves_those_who_wait_in_line(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(2, 1)
        tasks = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
        done, pending = await asyncio.wait(tasks, timeout=0)
        assert (len(done), len(pending)) == (2, 3)
        await clock.run(1.5)
        done, pending = await asyncio.wait(tasks, timeout=0)
        assert (len(done), len(pending)) == (5, 0)

    async def test_as_completed_gives_them_in_the_order_of_service(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        waiters = Waiters(limiter, clock)
        tasks = [waiters.add(name) for name in "abc"]
        await clock.settle()
        await clock.run(2.0)
        for future in asyncio.as_completed(tasks):
            await future
        assert waiters.names == ["a", "b", "c"]

    async def test_a_shielded_acquire_goes_on(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        limiter = AsyncLimiter(1, 1)
        await limiter.acquire()
        inner = asyncio.create_task(limiter.acquire())
        outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(inner), 0.5))
        await clock.settle()
        await clock.run(1.0)
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await outer
        assert inner.done()
        assert not limiter.has_capacity()

    if sys.version_info >= (3, 11):

        async def test_a_task_group_that_fails_frees_its_places(self, AsyncLimiter: Any, clock: ManualClock) -> None:
            limiter = AsyncLimiter(1, 1)
            waiters = Waiters(limiter, clock)
            await limiter.acquire()

            async def work() -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(limiter.acquire())
                    await clock.settle()
                    assert "waiters: 3" in repr(limiter)
                    group.create_task(limiter.acquire(5))

            with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
                await work()
            assert "waiters: 0]" in repr(limiter)
            waiters.add("next")
            await clock.run(1.0)
            assert waiters.served == [("next", 1.0)]


class TestUnreferencedTasks:
    async def test_a_task_that_nobody_holds_is_served(self, AsyncLimiter: Any, clock: ManualClock) -> None:
        """The loop keeps a task alive while it waits for a timer, and so it does while it waits here."""
        limiter = AsyncLimiter(1, 1)
        times: list[float] = []

        async def work() -> None:
            async with limiter:
                times.append(clock.time() - 1000)

        started = [ref(asyncio.create_task(work())) for _ in range(3)]
        await clock.settle()
        gc.collect()
        assert [task() is None for task in started] == [True, False, False]
        await clock.run(2.0)
        assert times == [0, 1.0, 2.0]

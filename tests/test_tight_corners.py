"""Where two things meet that seldom do: found by reading the engine, each with what went wrong before."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from typing import Any

import pytest
from waiters import Waiters

from aiolimiter_fast import AcquireTimeout
from aiolimiter_fast.testing import ManualClock


async def test_a_refused_waiter_leaves_its_timeout_behind(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    waiter = asyncio.create_task(limiter.acquire(5, timeout=3))
    await clock.settle()
    limiter.max_rate = 2
    with pytest.raises(ValueError, match="exceeds max_rate=2"):
        await waiter
    del waiter
    await clock.run(10)
    assert limiter.try_acquire(2)


async def test_a_waiter_that_is_refused_may_cancel_another_meanwhile(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    tasks = [asyncio.create_task(limiter.acquire(amount)) for amount in (5, 6, 1)]
    await clock.settle()
    loop: Any = asyncio.get_running_loop()
    call_soon = loop.call_soon

    def interfering(callback: Any, *arguments: Any, **options: Any) -> Any:
        del loop.call_soon
        coroutine: Any = tasks[1].get_coro()
        coroutine.close()
        return call_soon(callback, *arguments, **options)

    loop.call_soon = interfering
    limiter.max_rate = 2
    assert "waiters: 1" in repr(limiter)
    tasks[1].cancel()
    await asyncio.wait(tasks[:2])
    await clock.run(10)
    await tasks[2]
    assert "waiters: 0" in repr(limiter)


async def test_the_loop_is_at_rest_after_the_last_waiter_was_served(AsyncLimiter: Any) -> None:
    limiter = AsyncLimiter(1, 0.005, burst=1)
    for _ in range(3):
        await limiter.acquire()
    loop: Any = asyncio.get_running_loop()
    turns = 0
    select = loop._selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    loop._selector.select = counted
    await asyncio.sleep(0.2)
    assert turns < 10


def test_a_loop_that_goes_on_in_another_thread_is_woken_there(AsyncLimiter: Any) -> None:
    limiter = AsyncLimiter(1, 1000)
    loop = asyncio.new_event_loop()

    async def enqueue() -> asyncio.Task[None]:
        await limiter.acquire()
        task = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(enqueue())
    task.add_done_callback(lambda _: loop.stop())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    limiter.time_period = 0.001
    thread.join(60)
    assert task.done()
    loop.close()


async def test_a_grant_of_before_a_change_of_rate_gives_nothing_back(AsyncLimiter: Any, clock: ManualClock) -> None:
    """Its level was measured at the old rate; to give back less than was taken is safe."""
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    waiter = asyncio.create_task(limiter.acquire(10))
    await clock.settle()
    clock.advance(1)
    await asyncio.sleep(0)
    limiter.time_period = 1000
    limiter.time_period = 1
    waiter.cancel()
    await clock.settle()
    limiter.try_acquire(10)
    clock.advance(0.5)
    assert not limiter.try_acquire(10)


async def test_one_whose_time_is_up_and_whose_amount_no_longer_fits_is_late(
    AsyncLimiter: Any, clock: ManualClock
) -> None:
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    first, second = (asyncio.create_task(limiter.acquire(amount, timeout=1)) for amount in (10, 10))
    await clock.settle()
    with pytest.raises(AcquireTimeout):
        await second
    await clock.run(1)
    await first


async def test_a_copy_keeps_a_level_above_the_burst(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(100, 10)
    await limiter.acquire(100)
    limiter.max_rate = 10
    assert limiter.wait_time(1) == 91.0
    assert copy.copy(limiter).wait_time(1) == 91.0


async def test_a_first_reading_without_sense_is_none(AsyncLimiter: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    time = math.nan
    loop.time = lambda: time
    try:
        limiter = AsyncLimiter(10, 1)
        await limiter.acquire(10)
        time = 1000.0
        assert not limiter.try_acquire(1)
        time = 1000.1
        assert limiter.try_acquire(1)
    finally:
        del loop.time


async def test_timeouts_do_not_scan_the_queue(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(1, 1)
    waiters = [asyncio.create_task(limiter.acquire(timeout=1e6)) for _ in range(5000)]
    await clock.settle()
    assert limiter.wait_time() == pytest.approx(5000)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert "waiters: 0" in repr(limiter)


async def test_a_change_of_rate_counts_on_what_has_passed_a_waiter(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(4, 1)
    waiters = Waiters(limiter, clock)
    await limiter.acquire(1)
    waiters.add("large", 4)
    await clock.settle()
    assert limiter.try_acquire(3)
    await clock.run(0.5)
    limiter.max_rate = 8
    limiter.burst = 4
    assert limiter.try_acquire(1)
    assert not limiter.try_acquire(0.5)

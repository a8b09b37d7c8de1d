"""A child that is forked while tasks wait uses the limiter as its own, and leaves the parent's waiters alone."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from aiolimiter_fast import AsyncLimiter

HOUR = 3600.0


def in_child(function: Callable[[], None]) -> None:
    """Call a function in a forked child, and see that it raises nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # The child's copy of the running loop is not its own.
            asyncio._set_running_loop(None)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


async def use(limiter: AsyncLimiter, times: int) -> None:
    for _ in range(times):
        await limiter.acquire()


def use_in_child(limiter: AsyncLimiter) -> None:
    # Nobody waits in the child: what is free is free, and new waiters are served.
    warnings.simplefilter("ignore")
    limiter.max_rate = 1000
    limiter.time_period = 1
    asyncio.run(use(limiter, 1010))
    assert "waiters: 0]" in repr(limiter)


def change_in_child(limiter: AsyncLimiter) -> None:
    # What the child does to the rate must not reach the timer that it shares with its parent.
    limiter.max_rate = 1e9


def acquire_in_child(limiter: AsyncLimiter) -> None:
    limiter.try_acquire()
    limiter.has_capacity()
    assert limiter.wait_time() > 0
    repr(limiter)


async def parent() -> None:
    limiter = AsyncLimiter(1, HOUR)
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    for function in (use_in_child, change_in_child, acquire_in_child):
        in_child(lambda function=function: function(limiter))  # type: ignore[misc]
        await asyncio.sleep(0)
        assert "waiters: 3" in repr(limiter)
        assert not any(task.done() for task in waiting)
    # The parent's own timer works on: the waiters are served as soon as the rate allows.
    in_child(lambda: use_in_child(limiter))
    limiter.time_period = 0.001
    await asyncio.gather(*waiting)

    fresh = AsyncLimiter(1, 0.05)
    await fresh.acquire()
    task = asyncio.create_task(fresh.acquire())
    await asyncio.sleep(0)
    in_child(lambda: use_in_child(fresh))
    await task


asyncio.run(parent())

"""Waiters that are cancelled, that time out, or whose permit is refused leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import closing

from growth import assert_no_growth

from aiolimiter_fast import AsyncLimiter

limiter = AsyncLimiter(10, 3600)


async def give_up() -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(limiter.acquire(), 0.001)


async def main() -> None:
    limiter.try_acquire(10)
    tasks = [asyncio.create_task(limiter.acquire(1 + number % 10)) for number in range(500)]
    tasks += [asyncio.create_task(limiter.acquire(timeout=1e6)) for _ in range(500)]
    await asyncio.sleep(0)
    assert "waiters: 1000" in repr(limiter)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*(give_up() for _ in range(100)))
    for outcome in await asyncio.gather(*tasks, limiter.acquire(timeout=1), return_exceptions=True):
        assert isinstance(outcome, (asyncio.CancelledError, TimeoutError))
    assert "waiters: 0]" in repr(limiter)


with closing(asyncio.new_event_loop()) as loop:
    assert_no_growth(lambda: loop.run_until_complete(main()))

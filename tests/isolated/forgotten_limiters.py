"""Limiters that nobody holds any more serve those who wait, and then leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
from contextlib import closing
from weakref import ref

from growth import assert_no_growth

from aiolimiter_fast import AsyncLimiter


async def serve() -> None:
    limiter = AsyncLimiter(250, 0.02)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(500)]
    await asyncio.sleep(0)
    watched = ref(limiter)
    del limiter
    gc.collect()
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)  # until here the loop holds what woke this task
    del tasks
    gc.collect()
    assert watched() is None


async def cancel() -> None:
    watched = []
    for _ in range(200):
        limiter = AsyncLimiter(1, 3600)
        watched.append(ref(limiter))
        limiter.try_acquire()
        task = asyncio.create_task(limiter.acquire(timeout=7200))
        await asyncio.sleep(0)
        task.cancel()
        del limiter, task
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert not any(each() for each in watched)


with closing(asyncio.new_event_loop()) as loop:
    assert_no_growth(lambda: loop.run_until_complete(serve()))
    assert_no_growth(lambda: loop.run_until_complete(cancel()))

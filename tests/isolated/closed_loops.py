"""Loops that are closed while tasks wait take along all that belongs to them, limiter and waiters included."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import warnings
from weakref import ref

from growth import assert_no_growth

from aiolimiter_fast import AsyncLimiter

logging.disable()  # asyncio complains of tasks that die pending, as it should
warnings.filterwarnings("ignore", "This AsyncLimiter instance is being re-used")
watched: list[ref[object]] = []


def close_with_waiters(limiter: AsyncLimiter) -> None:
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(limiter.acquire(timeout=patience)) for patience in (None, 1e9) for _ in range(50)]
    loop.run_until_complete(asyncio.wait(tasks, timeout=0))
    watched.append(ref(loop))
    watched.extend(ref(task) for task in tasks)
    loop.close()


def each_its_own() -> None:
    limiter = AsyncLimiter(1, 3600)
    watched.append(ref(limiter))
    close_with_waiters(limiter)


shared = AsyncLimiter(1, 3600)

for work in (each_its_own, lambda: close_with_waiters(shared)):
    watched.clear()
    for _ in range(10):
        work()
    gc.collect()
    alive = sum(each() is not None for each in watched)
    assert alive == 0, f"{alive} of {len(watched)} live on"

    def again(work: object = work) -> None:
        watched.clear()
        for _ in range(3):
            work()  # type: ignore[operator]
        gc.collect()
        watched.clear()

    assert_no_growth(again)

if sys.platform == "linux":

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()

    async def main(limiter: AsyncLimiter) -> None:
        await limiter.acquire()
        pending = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        pending.cancel()

    limiter = AsyncLimiter(20_000, 3600)
    for number in range(10_000):
        if number % 100:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main(limiter))
            loop.close()
        else:
            each_its_own()
            watched.clear()
    gc.collect()
    assert descriptors() == before

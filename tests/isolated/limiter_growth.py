"""Waiters at a Limiter, served, cancelled, out of patience, refused or forgotten with it, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from weakref import ref

from growth import assert_no_growth

from aiolimiter_fast import BucketAsyncWrapper, InMemoryBucket, Limiter, Rate
from aiolimiter_fast._engine import ENGINE

logging.disable()  # asyncio complains of tasks that die pending, as it should
HOUR = 3_600_000
CALLS = 20_000 if ENGINE == "extension" else 1_000
COUNT_REFERENCES: Callable[[], int] | None = getattr(sys, "gettotalrefcount", None)  # of a debug build of Python


class Clock:
    """One of the user's own, which counts nanoseconds."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def now(self) -> int:
        return self.now_ns() // 1_000_000


def limiter_with_its_own_clock(*rates: Rate) -> Limiter:
    bucket = InMemoryBucket(list(rates))
    bucket._clock = Clock()  # type: ignore[assignment]
    return Limiter(bucket)


shared = Limiter([Rate(10**6, 1), Rate(10**9, HOUR)])
full = Limiter(Rate(10, HOUR))
assert full.try_acquire(weight=10)
wrapped = Limiter(BucketAsyncWrapper(InMemoryBucket([Rate(1, HOUR)])))


async def with_room() -> None:
    for _ in range(CALLS):
        await shared.try_acquire_async("x")
        await shared.try_acquire_async("y", 2, timeout=1)
        shared.try_acquire("z", blocking=False)
    shared.bucket_factory.bucket.flush()  # type: ignore[attr-defined]


async def give_up(limiter: Limiter) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(limiter.try_acquire_async(), 0.001)


async def without_room() -> None:
    tasks = [asyncio.create_task(full.try_acquire_async("x", 1 + number % 10)) for number in range(200)]
    tasks += [asyncio.create_task(full.try_acquire_async(timeout=1e6)) for _ in range(200)]
    tasks += [asyncio.create_task(wrapped.try_acquire_async(timeout=1e6)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*(give_up(full) for _ in range(50)))
    assert not any(await asyncio.gather(*(full.try_acquire_async(timeout=0.001) for _ in range(50))))
    await asyncio.gather(*tasks, return_exceptions=True)
    full.rates = Rate(9, HOUR)
    assert not await full.try_acquire_async(weight=10)
    full.rates = Rate(10, HOUR)
    assert full.counters.waiting == 0


async def served() -> None:
    limiter = Limiter(Rate(100, 2))
    tasks = [asyncio.create_task(limiter.try_acquire_async(str(number), timeout=60)) for number in range(300)]
    assert all(await asyncio.gather(*tasks))


def threads() -> None:
    limiter = limiter_with_its_own_clock(Rate(20, 2))
    everyone = [threading.Thread(target=limiter.try_acquire, args=("x", 1, True, 60)) for _ in range(50)]
    everyone += [threading.Thread(target=full.try_acquire, args=("x", 1, True, 0.001)) for _ in range(10)]
    for thread in everyone:
        thread.start()
    for thread in everyone:
        thread.join()


def forgotten() -> None:
    """Limiters that go with their loop and all who wait."""
    watched: list[ref[object]] = []
    for make in (Limiter, limiter_with_its_own_clock):
        loop = asyncio.new_event_loop()
        limiter = make(Rate(1, HOUR))
        tasks = [loop.create_task(limiter.try_acquire_async(timeout=patience)) for patience in (-1, 1e9) for _ in "abc"]
        loop.run_until_complete(asyncio.wait(tasks, timeout=0))
        watched += [ref(each) for each in (loop, limiter, *tasks)]
        loop.close()
        del loop, limiter, tasks
    gc.collect()
    assert not any(each() for each in watched)


def closed() -> None:
    """Loops that are closed while tasks wait at a limiter that stays."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(full.try_acquire_async(timeout=patience)) for patience in (-1, 1e9) for _ in range(20)]
    loop.run_until_complete(asyncio.wait(tasks, timeout=0))
    assert full.counters.waiting == 40
    loop.close()
    del loop, tasks
    gc.collect()
    assert full.counters.waiting == 0


def never_awaited() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            full.try_acquire_async("x", timeout=1)  # type: ignore[unused-coroutine]


def assert_no_references_stay(work: Callable[[], object]) -> None:
    """On a debug build: later rounds add no reference, of those that are only counted."""
    if COUNT_REFERENCES is None:
        return
    added = []
    for _ in range(4):
        gc.collect()
        before = COUNT_REFERENCES()
        for _ in range(4):
            work()
        gc.collect()
        added.append(COUNT_REFERENCES() - before)
    assert min(added) < 50, f"{added} references more"


with closing(asyncio.new_event_loop()) as loop:
    for work in (with_room, without_room, served):
        for check in (assert_no_growth, assert_no_references_stay):
            check(lambda work=work: loop.run_until_complete(work()))  # type: ignore[misc]
for function in (threads, forgotten, closed, never_awaited):
    assert_no_growth(function)
    assert_no_references_stay(function)

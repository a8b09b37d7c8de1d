"""What type checkers see of the public names; checked by mypy --strict and pyright, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial

from typing_extensions import assert_type

import aiolimiter_fast
from aiolimiter_fast import (
    AcquireTimeout,
    AsyncLimiter,
    LeakyBucketLimiter,
    LimiterError,
    LimitReached,
    StrictLimiter,
    Throttle,
    Throttler,
    WorkerPool,
    amap,
    pacing,
    run_all,
    run_any,
    run_on_each,
)
from aiolimiter_fast.batch import Progress
from aiolimiter_fast.pool import Outcome
from aiolimiter_fast.testing import ManualClock
from aiolimiter_fast.throttling import execution_timer, throttle, throttle_simultaneous


async def use(limiter: AsyncLimiter) -> None:
    await limiter.acquire()
    await limiter.acquire(2.5, timeout=1)
    assert_type(limiter.try_acquire(2), bool)
    assert_type(limiter.has_capacity(), bool)
    assert_type(limiter.wait_time(3), float)
    assert_type(limiter.max_rate, float)
    assert_type(limiter.fair, bool)
    limiter.max_rate = 5
    limiter.time_period = 0.5
    limiter.burst = None
    async with limiter as nothing:
        assert_type(nothing, None)
    manager: AbstractAsyncContextManager[None] = limiter
    async with manager:
        pass
    task = asyncio.create_task(limiter.acquire())
    assert_type(task, asyncio.Task[None])
    await asyncio.wait_for(limiter.acquire(block=False), 1)
    try:
        await limiter.acquire(timeout=0)
    except (LimitReached, AcquireTimeout) as error:
        assert_type(error.retry_after, float)
        base: LimiterError = error
        timeout: Exception = base
        raise timeout from None


limiter = AsyncLimiter(10, 1, burst=2.5, fair=True)
limiter.pause_until(0.5)
limiter.sync(limit=10, remaining=2.5, reset=30)
limiter.drain()
limiter.resume()


@limiter
async def plain(page: int) -> str:
    return str(page)


@limiter(amount=2)
async def double(page: int) -> str:
    return str(page)


async def decorated() -> None:
    assert_type(await plain(1), str)
    assert_type(await double(page=1), str)


def size(page: int) -> int:
    return page


busy = Throttle(limiter, max_concurrent=3, key=size)


@busy
async def kept_busy(page: int) -> str:
    return str(page)


@busy(amount=size)
def blocking(page: int) -> str:
    return str(page)


async def numbers() -> AsyncIterator[int]:
    yield 1


def report(progress: Progress) -> None:
    assert_type(progress.time_left, float | None)


def mend(error: Exception, page: int) -> bytes:
    return bytes(page)


async def batches() -> None:
    assert_type(await kept_busy(1), str)
    assert_type(blocking(1), str)
    async with busy.at("key", 2) as nothing:
        assert_type(nothing, None)
    assert_type(busy.max_concurrent, int | None)

    assert_type(await run_on_each(plain, [1, 2], max_at_once=2, max_per_second=0.5), None)
    assert_type(await run_on_each(plain, numbers(), limiter=busy, weight=size), None)
    assert_type(await run_all([partial(plain, 1)]), list[str])
    assert_type(await run_all([partial(plain, 1)], on_error="return"), list[str | Exception])
    assert_type(await run_any([partial(plain, 1)]), str)
    async with amap(plain, range(3), progress=report, ordered=True) as results:
        async for result in results:
            assert_type(result, str)
    async with amap(plain, range(3), _include_index=True) as pairs:
        async for pair in pairs:
            assert_type(pair, tuple[int, str])
    async with amap(plain, numbers(), on_error="return") as either:
        async for one in either:
            assert_type(one, str | Exception)
    async with amap(plain, numbers(), on_error=mend) as mended:
        async for other in mended:
            assert_type(other, str | bytes)


async def pools() -> None:
    async with WorkerPool(plain, workers=2, limiter=limiter, queue_size=3) as pool:
        await pool.put(1)
        assert_type(pool, WorkerPool[int, str])
        assert_type(pool.unfinished, list[int])
        async for outcome in pool:
            assert_type(outcome, Outcome)
            assert_type(outcome.error, BaseException | None)


assert_type(aiolimiter_fast.__version__, str)
assert_type(aiolimiter_fast.install(force=True), tuple[str, ...])
assert_type(ManualClock().time(), float)


async def paced(limiter: pacing.Limiter, strict: StrictLimiter, bucket: LeakyBucketLimiter) -> None:
    await limiter.wait()
    assert_type(asyncio.create_task(strict.wait()), asyncio.Task[None])
    assert_type(await bucket.wrap(plain(1)), str)
    limiter.wait_sync(timeout=1.5)
    assert_type(limiter.rate, float)
    assert_type(limiter.max_burst, int)
    assert_type(bucket.capacity, int)
    limiter.rate = 2.5
    for each in (limiter, strict, bucket):
        each.cancel()
        each.breach()
        each.reset()
        each.close()
    async with limiter as nothing:
        assert_type(nothing, None)
    with strict:
        pass
    async for beat in bucket:
        assert_type(beat, None)


async def throttled(throttler: Throttler) -> None:
    await throttler.acquire()
    throttler.acquire_sync()
    throttler.flush()
    throttler.rate_limit = 5
    throttler.period = 0.5
    async with throttler:
        pass
    with throttler:
        pass


pacing.Limiter(10, max_burst=2)
LeakyBucketLimiter(rate=10, capacity=2)
Throttler(rate_limit=10, period=2.0, retry_interval=0.1)


@throttle(rate_limit=10, period=1)
@throttle_simultaneous(count=3)
@execution_timer(period=10, align_sleep=True)
async def guarded(page: int) -> str:
    return str(page)


async def guards() -> None:
    assert_type(await guarded(page=1), str)

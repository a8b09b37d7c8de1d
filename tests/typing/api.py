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
    LimiterError,
    LimitReached,
    Throttle,
    WorkerPool,
    amap,
    run_all,
    run_any,
    run_on_each,
)
from aiolimiter_fast.batch import Progress
from aiolimiter_fast.pool import Outcome
from aiolimiter_fast.testing import ManualClock


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


throttle = Throttle(limiter, max_concurrent=3, key=size)


@throttle
async def throttled(page: int) -> str:
    return str(page)


@throttle(amount=size)
def blocking(page: int) -> str:
    return str(page)


async def numbers() -> AsyncIterator[int]:
    yield 1


def report(progress: Progress) -> None:
    assert_type(progress.time_left, float | None)


def mend(error: Exception, page: int) -> bytes:
    return bytes(page)


async def batches() -> None:
    assert_type(await throttled(1), str)
    assert_type(blocking(1), str)
    async with throttle.at("key", 2) as nothing:
        assert_type(nothing, None)
    assert_type(throttle.max_concurrent, int | None)

    assert_type(await run_on_each(plain, [1, 2], max_at_once=2, max_per_second=0.5), None)
    assert_type(await run_on_each(plain, numbers(), limiter=throttle, weight=size), None)
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

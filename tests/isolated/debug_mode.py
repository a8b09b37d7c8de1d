"""All ways of use raise no warning of any kind; the runner adds -X dev and -W error."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from aiolimiter_fast import (
    AcquireTimeout,
    AsyncLimiter,
    LeakyBucketLimiter,
    LimitReached,
    StrictLimiter,
    Throttler,
    pacing,
)

assert sys.flags.dev_mode
assert sys.warnoptions


async def main() -> None:
    assert asyncio.get_running_loop().get_debug()
    asyncio.get_running_loop().slow_callback_duration = 3600  # how fast the machine is does not matter
    limiter = AsyncLimiter(5, 0.005)

    @limiter
    async def limited() -> None:
        pass

    async def work() -> None:
        async with limiter:
            pass
        await limiter.acquire(2)
        await limited()

    await asyncio.gather(*(work() for _ in range(10)))
    slow = AsyncLimiter(1, 3600)
    await slow.acquire()
    with contextlib.suppress(LimitReached):
        await slow.acquire(block=False)
    with contextlib.suppress(AcquireTimeout):
        await slow.acquire(timeout=1)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(slow.acquire(), 0.001)
    task = asyncio.create_task(slow.acquire())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    slow.acquire().close()
    for paced in (pacing.Limiter(2000), StrictLimiter(2000), LeakyBucketLimiter(2000, capacity=2), Throttler(2, 0.001)):
        await asyncio.gather(*(paced.wait() for _ in range(4)), asyncio.to_thread(paced.__enter__))
        async with paced:
            pass
        task = asyncio.create_task(paced.wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        paced.wait().close()


asyncio.run(main())

"""All ways to use a Limiter raise no warning of any kind; the runner adds -X dev and -W error."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from aiolimiter_fast import BucketAsyncWrapper, InMemoryBucket, Limiter, Rate

assert sys.flags.dev_mode
assert sys.warnoptions
HOUR = 3_600_000


async def main() -> None:
    assert asyncio.get_running_loop().get_debug()
    asyncio.get_running_loop().slow_callback_duration = 3600  # how fast the machine is does not matter
    limiters = [
        Limiter([Rate(5, 5), Rate(10**4, HOUR)]),
        Limiter(BucketAsyncWrapper(InMemoryBucket([Rate(5, 5)])), buffer_ms=0),
    ]
    for limiter in limiters:

        @limiter.as_decorator()
        async def limited() -> None:
            pass

        async def work(limiter: Limiter = limiter) -> None:
            assert await limiter.try_acquire_async()
            assert await limiter.try_acquire_async(weight=2, timeout=60)
            await limited()

        await asyncio.gather(*(work() for _ in range(10)))
        limiter.rates = Rate(1, HOUR)
        limiter.try_acquire_async().close()
        assert not await limiter.try_acquire_async(weight=2)
        assert not await limiter.try_acquire_async(blocking=False)
        assert not await limiter.try_acquire_async(timeout=0.001)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(limiter.try_acquire_async(), 0.001)
        task = asyncio.create_task(limiter.try_acquire_async())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        limiter.close()


asyncio.run(main())

"""A million acquires with room allocate nothing that stays."""

from __future__ import annotations

import asyncio
from contextlib import closing

from growth import assert_no_growth

from aiolimiter_fast import AsyncLimiter
from aiolimiter_fast._engine import ENGINE

# In 27 rounds of three acquires: 1.6 million, and 160,000 with the twin, which takes as long for them.
CALLS = 20_000 if ENGINE == "extension" else 2_000


async def use(limiter: AsyncLimiter) -> None:
    for _ in range(CALLS):
        await limiter.acquire()
        await limiter.acquire(0.5, timeout=1)
        async with limiter:
            pass
        limiter.try_acquire()
        limiter.has_capacity()
        limiter.wait_time()


with closing(asyncio.new_event_loop()) as loop:
    limiter = AsyncLimiter(1e12, 1)
    assert_no_growth(lambda: loop.run_until_complete(use(limiter)))

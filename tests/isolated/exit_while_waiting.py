"""An interpreter that ends while tasks wait, in a loop that nobody closed, ends quietly."""

from __future__ import annotations

import asyncio
import logging
import warnings

from aiolimiter_fast import AsyncLimiter, LeakyBucketLimiter, StrictLimiter, Throttler, pacing

logging.disable()
warnings.simplefilter("ignore")
limiter = AsyncLimiter(1, 3600)
loop = asyncio.new_event_loop()
tasks = [loop.create_task(limiter.acquire(timeout=timeout)) for timeout in (None, 1e6) for _ in range(100)]
paced = (pacing.Limiter(1e-4), StrictLimiter(1e-4), LeakyBucketLimiter(1e-4), Throttler(1, 3600))
tasks += [loop.create_task(each.wait()) for each in paced for _ in range(20)]
loop.run_until_complete(asyncio.wait(tasks, timeout=0))
assert "waiters: 199" in repr(limiter)
never_awaited = limiter.acquire()

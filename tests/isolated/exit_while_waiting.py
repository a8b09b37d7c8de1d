"""An interpreter that ends while tasks wait, in a loop that nobody closed, ends quietly."""

from __future__ import annotations

import asyncio
import logging
import warnings

from aiolimiter_fast import AsyncLimiter

logging.disable()
warnings.simplefilter("ignore")
limiter = AsyncLimiter(1, 3600)
loop = asyncio.new_event_loop()
tasks = [loop.create_task(limiter.acquire(timeout=timeout)) for timeout in (None, 1e6) for _ in range(100)]
loop.run_until_complete(asyncio.wait(tasks, timeout=0))
assert "waiters: 199" in repr(limiter)
never_awaited = limiter.acquire()

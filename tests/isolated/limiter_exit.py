"""An interpreter that ends while threads and tasks wait at a Limiter, in a loop that nobody closed, ends quietly."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings

from aiolimiter_fast import Limiter, Rate

logging.disable()
warnings.simplefilter("ignore")
limiter = Limiter(Rate(1, 3_600_000))
loop = asyncio.new_event_loop()
tasks = [loop.create_task(limiter.try_acquire_async(timeout=timeout)) for timeout in (-1, 1e6) for _ in range(100)]
loop.run_until_complete(asyncio.wait(tasks, timeout=0))
for timeout in (-1, 1e6):
    for _ in range(5):
        threading.Thread(target=limiter.try_acquire, args=("x", 1, True, timeout), daemon=True).start()
while limiter.counters.waiting < 209:
    time.sleep(0.001)
never_awaited = limiter.try_acquire_async()

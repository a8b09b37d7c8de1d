"""Children that are forked in the midst of a load of threads and tasks limit correctly, and wait for nobody."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable

from aiolimiter_fast import BucketAsyncWrapper, InMemoryBucket, Limiter, Rate, StateBucket

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

HOUR = 3_600_000
FORKS = 40


class Bucket(InMemoryBucket):
    """One of the user's own, which the limiter's lock guards."""

    def put(self, item: object) -> bool:
        return super().put(item)  # type: ignore[arg-type]


core = Limiter(Rate(50, 5))
full = Limiter(Rate(1, HOUR))
own = Limiter(Bucket([Rate(50, 5)]), buffer_ms=0)
state = Limiter(StateBucket([Rate(50, 5)]), buffer_ms=0)
wrapped = Limiter(BucketAsyncWrapper(InMemoryBucket([Rate(50, 5)])), buffer_ms=0)
LIMITERS = [core, own, state]
finished = threading.Event()


def load(limiter: Limiter) -> None:
    while not finished.is_set():
        limiter.try_acquire("x", blocking=False)
        limiter.try_acquire("x", timeout=0.002)


def run_loop(ready: threading.Event) -> None:
    async def work(limiter: Limiter) -> None:
        while not finished.is_set():
            await limiter.try_acquire_async("y", timeout=0.01)
            await asyncio.sleep(0)

    async def main() -> None:
        waiting = [asyncio.create_task(full.try_acquire_async(timeout=timeout)) for timeout in (-1, 3600)]
        ready.set()
        await asyncio.gather(*(work(limiter) for limiter in (core, own, state, wrapped) for _ in range(3)))
        for task in waiting:
            task.cancel()

    asyncio.run(main())


async def crowd(limiter: Limiter, count: int) -> None:
    assert all(await asyncio.gather(*(limiter.try_acquire_async() for _ in range(count))))


def use(limiter: Limiter, limit: int) -> None:
    """The whole limit is there, no more than that, and later it is there again, for threads and for tasks."""
    if limiter is full:
        assert limiter.counters.waiting == 0
        assert limiter.wait_time() <= HOUR / 1000 + 1  # nobody is in the line
    bucket = limiter.bucket_factory.bucket  # type: ignore[attr-defined]
    limiter.rates = Rate(limit, HOUR)
    bucket.flush()
    assert sum(limiter.try_acquire("z", blocking=False) for _ in range(2 * limit)) == limit
    assert limiter.try_acquire("z", timeout=0.001) is False
    limiter.rates = Rate(limit, 1)
    bucket.flush()
    assert all(limiter.try_acquire("z") for _ in range(2 * limit))
    asyncio.run(crowd(limiter, 2 * limit))
    thread = threading.Thread(target=limiter.try_acquire)
    thread.start()
    thread.join()


def in_child(function: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # hang, and this ends the child
            asyncio._set_running_loop(None)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def use_all() -> None:
    for limiter in (*LIMITERS, full):
        use(limiter, 5)
    wrapped.rates = Rate(5, 1)
    asyncio.run(crowd(wrapped, 10))


ready = threading.Event()
assert full.try_acquire()
threads = [threading.Thread(target=load, args=(limiter,)) for limiter in LIMITERS for _ in range(2)]
threads.append(threading.Thread(target=run_loop, args=(ready,)))
threads.append(threading.Thread(target=full.try_acquire))
sys.setswitchinterval(1e-5)
for thread in threads:
    thread.daemon = True
    thread.start()
ready.wait()
dice = random.Random(7)
for _ in range(FORKS):
    time.sleep(dice.random() / 500)
    in_child(use_all)
    assert full.counters.waiting == 3
finished.set()
for thread in threads[:-1]:
    thread.join()
full.bucket_factory.bucket.flush()  # type: ignore[attr-defined]
threads[-1].join()

"""What waits to be paced leaves nothing behind: served, cancelled, forgotten, with its loop closed, or forked."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from typing import Any
from weakref import ref

from growth import assert_no_growth

from aiolimiter_fast import LeakyBucketLimiter, StrictLimiter, Throttler, pacing
from aiolimiter_fast._engine import ENGINE

HOUR = 3600.0
CALLS = 5_000 if ENGINE == "extension" else 500

Makers = tuple[Callable[[float], Any], ...]
MAKERS: Makers = (
    pacing.Limiter,
    StrictLimiter,
    lambda rate: LeakyBucketLimiter(rate, capacity=1),
    lambda rate: Throttler(1, 1 / rate),
)


async def pass_at_once() -> None:
    for make in MAKERS:
        limiter = make(1e9)
        for _ in range(CALLS):
            await limiter.wait()
            async with limiter:
                pass


async def serve() -> None:
    for make in MAKERS:
        limiter = make(100_000)
        tasks = [asyncio.create_task(limiter.wait()) for _ in range(200)]
        await asyncio.sleep(0)
        watched = ref(limiter)
        del limiter
        gc.collect()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)  # until here the loop holds what woke this task
        del tasks
        gc.collect()
        assert watched() is None


async def cancel() -> None:
    watched = []
    for make in MAKERS:
        for _ in range(100):
            limiter = make(1 / HOUR)
            watched.append(ref(limiter))
            limiter.__enter__()
            task = asyncio.create_task(limiter.wait())
            await asyncio.sleep(0)
            task.cancel()
            del limiter, task
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert not any(each() for each in watched)


def close_loops() -> None:
    watched = []
    for make in MAKERS:
        for _ in range(20):
            limiter = make(1 / HOUR)
            limiter.__enter__()
            watched.append(ref(limiter))
            with closing(asyncio.new_event_loop()) as loop:
                task: Any = loop.create_task(limiter.wait())
                loop.call_soon(loop.stop)
                loop.run_forever()
            task._log_destroy_pending = False
            del limiter, task, loop
    gc.collect()
    assert not any(each() for each in watched)


def in_child(function: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio._set_running_loop(None)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


async def fork() -> None:
    for make in MAKERS[:3]:
        limiter = make(1 / HOUR)
        await limiter.wait()
        tasks = [asyncio.create_task(limiter.wait()) for _ in range(3)]
        await asyncio.sleep(0)

        async def use(limiter: Any = limiter) -> None:
            for _ in range(10):
                await limiter.wait()

        def change(limiter: Any = limiter) -> None:
            limiter.rate = 1e9
            limiter.wait_sync()
            asyncio.run(use(limiter))

        def reset(limiter: Any = limiter) -> None:
            limiter.reset()
            limiter.wait_sync()

        def breach(limiter: Any = limiter) -> None:
            limiter.breach()
            asyncio.run(use(limiter))

        for function in (change, reset, breach):
            in_child(function)
            await asyncio.sleep(0.001)
            assert not any(task.done() for task in tasks)
        limiter.rate = 1e6
        await asyncio.gather(*tasks)


with closing(asyncio.new_event_loop()) as loop:
    assert_no_growth(lambda: loop.run_until_complete(pass_at_once()))
    assert_no_growth(lambda: loop.run_until_complete(serve()))
    assert_no_growth(lambda: loop.run_until_complete(cancel()))
    if hasattr(os, "fork"):
        loop.run_until_complete(fork())
assert_no_growth(close_loops)

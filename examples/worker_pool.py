"""A worker pool on a stream: a producer that is held back, handlers that fail, and a stop that loses no item.

Exit status 1 says that an item was lost, or that the service had to refuse a request.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

from _service import Service

from aiolimiter_fast import AsyncLimiter, WorkerPool

started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - started:6.3f} s  {text}")


async def produce(pool: WorkerPool[int, str], put: list[int]) -> None:
    for page in itertools.count():
        await pool.put(page)  # waits while the queue is full
        put.append(page)


async def consume(pool: WorkerPool[int, str], ended: list[int]) -> None:
    async for outcome in pool:
        ended.append(outcome.item)
        if outcome.error is not None:
            say(f"page {outcome.item} failed: {outcome.error!r}; its worker goes on")


async def main() -> int:
    service = Service(rate=200, burst=5, at_once=10, flakes=0.02)
    put: list[int] = []
    ended: list[int] = []
    pool = WorkerPool(service.get, workers=10, limiter=AsyncLimiter(190, 1, burst=5), queue_size=20)

    async def run() -> None:
        async with pool:
            await asyncio.gather(produce(pool, put), consume(pool, ended))

    running = asyncio.create_task(run())
    await asyncio.sleep(1)
    say(f"{len(put)} pages put, {len(ended)} ended, {pool.running} in hand, {pool.queued} in the queue")
    running.cancel()  # as Ctrl-C does
    await asyncio.wait([running])
    ended += [outcome.item async for outcome in pool]
    say(f"stopped: {len(pool.unfinished)} pages are reported as unfinished")
    lost = set(put) - set(ended) - set(pool.unfinished)
    say(f"lost: {len(lost)}; the service has seen {service.requests} requests, and refused {service.refused}")
    return 1 if lost or service.refused else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

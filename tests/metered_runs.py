"""Fifty tasks and an AdaptiveLimiter against a metered server, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

from metering_servers import EPOCH, MeteredServer

from aiolimiter_fast import AdaptiveLimiter
from aiolimiter_fast.testing import ManualClock


def run(
    limiter: AdaptiveLimiter,
    server: MeteredServer,
    seconds: float = 20.0,
    *,
    tasks: int = 50,
    latency: tuple[float, float] = (0.02, 0.08),
    another_every: float = 0.0,
    while_running: Callable[[float], None] | None = None,
) -> None:
    """Let `tasks` tasks send one request after the other; `another_every` seconds a second client sends one."""
    asyncio.run(_run(limiter, server, seconds, tasks, latency, another_every, while_running))


async def _run(
    limiter: AdaptiveLimiter,
    server: MeteredServer,
    seconds: float,
    tasks: int,
    latency: tuple[float, float],
    another_every: float,
    while_running: Callable[[float], None] | None,
) -> None:
    chance = random.Random(1)
    limiter._spell.chance.seed(1)
    with ManualClock().installed() as clock:
        start = clock.time()

        def now() -> float:
            return clock.time() - start

        async def client() -> None:
            while True:
                async with limiter.call() as call:
                    trip = chance.uniform(*latency) / 2
                    await asyncio.sleep(trip)
                    answer = server.answer(now())
                    await asyncio.sleep(trip)
                    call.observe(answer.headers, answer.status)
                    if while_running is not None:
                        while_running(now())

        async def another() -> None:
            while True:
                await asyncio.sleep(another_every)
                server.take_by_another(now())

        running: list[asyncio.Task[Any]] = [asyncio.create_task(client()) for _ in range(tasks)]
        if another_every:
            running.append(asyncio.create_task(another()))
        with mock.patch("time.time", side_effect=lambda: EPOCH + now()):
            await clock.run(seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def share(server: MeteredServer, quota: float, begin: float = 0.0) -> float:
    """What was used of `quota` permits from `begin` on, by us and by the second client."""
    return (sum(at >= begin for at in server.admitted) + server.taken_by_others) / quota


def most_refused(server: MeteredServer, window: float) -> int:
    """The largest number of refusals in one window."""
    return max(Counter(int(at // window) for at in server.refused).values(), default=0)


def refused_share(server: MeteredServer, begin: float) -> float:
    """The share of the responses from `begin` on that were refusals."""
    refused = sum(at >= begin for at in server.refused)
    return refused / max(refused + sum(at >= begin for at in server.admitted), 1)

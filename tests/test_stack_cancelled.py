"""The whole stack while everything goes wrong at once: whatever is cancelled when, nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aiolimiter_fast import AdaptiveLimiter, AsyncLimiter, CircuitBreaker
from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport
from aiolimiter_fast.resilience import CircuitOpen
from aiolimiter_fast.testing import ManualClock


class Body(httpx.AsyncByteStream):
    """A body that takes its time, and counts itself while it is open."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.world.open += 1
        self.is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(self.world.chance.choice((0, 0.01, 0.1)))
            yield b"x"

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.world.open -= self.is_open
        self.is_open = False


class World(httpx.AsyncBaseTransport):
    """A network of bad days."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.is_well = False
        self.open = 0
        self.sent: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        assert not self.done[path], "a call that came through was sent again"
        self.sent[path] += 1
        await asyncio.sleep(self.chance.choice((0, 0.01, 0.05, 0.5)))
        kind = 9 if self.is_well else self.chance.randrange(10)
        if kind == 0:
            raise httpx.ReadError("")
        if kind == 1:
            raise httpx.ConnectError("")
        status = {2: 429, 3: 503, 4: 500, 5: 404}.get(kind, 200)
        headers = {"Retry-After": "1"} if status in (429, 503) and self.chance.random() < 0.5 else {}
        if status in (200, 404):
            self.done[path] += 1
        return httpx.Response(status, headers={**headers, "Content-Length": "3"}, stream=Body(self))


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_behind(clock: ManualClock, seed: int, adaptive: bool) -> None:
    world = World(seed)
    chance = random.Random(seed)
    limiters: list[AdaptiveLimiter] = []

    def learning(ceiling: Any) -> AdaptiveLimiter:
        limiters.append(AdaptiveLimiter(ceiling, start_rate=500, min_rate=50, max_pause=1))
        return limiters[-1]

    breaker = CircuitBreaker(failures=8, share=0.8, open_for=0.5)
    transport = AsyncThrottledTransport(
        transport=world, limiter=lambda host: AsyncLimiter(20, 0.1), max_concurrent=6, max_per_key=4, max_keys=1,
        adaptive=learning if adaptive else False, retry={"first": 0.1, "max_wait": 1}, breaker=breaker,
    )  # fmt: skip
    outcomes: Counter[str] = Counter()

    async def call(http: httpx.AsyncClient, number: int) -> None:
        url = f"http://host{number % 3}/{number}"
        try:
            async with http.stream("GET" if number % 4 else "POST", url) as response:
                if chance.random() < 0.7:
                    await response.aread()
                outcomes[str(response.status_code)] += 1
        except (httpx.TransportError, CircuitOpen) as error:
            outcomes[type(error).__name__] += 1

    http = httpx.AsyncClient(transport=transport)
    tasks = []
    for number in range(300):
        tasks.append(asyncio.create_task(call(http, number)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            await clock.run(chance.choice((0.001, 0.01, 0.1)))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
    await clock.run(300)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(each, asyncio.CancelledError) for each in results)
    assert sum(each is not None for each in results) == cancelled
    assert cancelled > 20
    assert outcomes["200"] > 100
    assert transport.throttle.running == transport.throttle.waiting == world.open == 0
    assert all(limiter.in_flight == limiter.waiting == 0 for limiter in limiters)
    assert max(world.sent.values()) > 1
    # And all of it works still.
    world.is_well = True
    for host in range(3):
        task = asyncio.create_task(http.get(f"http://host{host}/again{host}"))
        await clock.run(10)
        assert task.result().status_code == 200
    assert transport.throttle.keys <= 2
